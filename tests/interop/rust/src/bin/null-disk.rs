// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vhost-user disk on the reference crate vhost-user-backend: reads give zeroes, what is written is forgotten.
//!
//!     null-disk SOCKET QUEUES
//!
//! It serves one front-end after the other, until SIGTERM.

use std::io::{Error, Result};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, RwLock};

use vhost::vhost_user::message::VhostUserProtocolFeatures as Protocol;
use vhost::vhost_user::Listener;
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringMutex, VringState, VringT};
use virtio_queue::{DescriptorChain, QueueOwnedT};
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Chain = DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>;

const SECTORS: u64 = 64 << 11;
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28 | 1 << 12 | 1 << 9; // VERSION_1, protocol features, rings, MQ, FLUSH
const REQUEST_READ: u32 = 0;
const REQUEST_UNKNOWN: u32 = 9; // from here on: not supported
const STATUS_UNSUPPORTED: u8 = 2;

struct NullDisk {
    queues: usize,
    memory: Memory,
    exit: EventFd,
}

impl NullDisk {
    /// Answers one request; gives the number of bytes that were written into the driver's memory.
    fn request(&self, chain: Chain) -> Result<u32> {
        let memory = self.memory.memory();
        let failed = |e| Error::other(format!("{e:?}"));
        let descriptors: Vec<_> = chain.collect();
        let kind: u32 = memory.read_obj(descriptors[0].addr()).map_err(failed)?;
        let (status, data) = descriptors[1..].split_last().ok_or(Error::other("a chain of one descriptor"))?;
        let mut len = status.len();
        if kind == REQUEST_READ {
            for d in data.iter().filter(|d| d.is_write_only()) {
                memory.write_slice(&vec![0; d.len() as usize], d.addr()).map_err(failed)?;
                len += d.len();
            }
        }
        let word = if kind < REQUEST_UNKNOWN { 0 } else { STATUS_UNSUPPORTED };
        let last = status.addr().0 + u64::from(status.len()) - 1;
        memory.write_obj(word, vm_memory::GuestAddress(last)).map_err(failed)?;
        Ok(len)
    }

    fn serve(&self, vring: &mut VringState<Memory>) -> Result<()> {
        let failed = |e| Error::other(format!("{e:?}"));
        loop {
            vring.disable_notification().map_err(failed)?;
            let chains: Vec<Chain> = vring.get_queue_mut().iter(self.memory.memory()).map_err(failed)?.collect();
            for chain in chains {
                let head = chain.head_index();
                let len = self.request(chain)?;
                vring.add_used(head, len).map_err(failed)?;
                if vring.needs_notification().map_err(failed)? {
                    vring.signal_used_queue()?;
                }
            }
            if !vring.enable_notification().map_err(failed)? {
                return Ok(());
            }
        }
    }
}

impl VhostUserBackendMut for NullDisk {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        self.queues
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn protocol_features(&self) -> Protocol {
        Protocol::MQ | Protocol::CONFIG | Protocol::REPLY_ACK | Protocol::CONFIGURE_MEM_SLOTS | Protocol::RESET_DEVICE | Protocol::BACKEND_REQ
    }

    fn set_event_idx(&mut self, _on: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = [0; 60];
        config[..8].copy_from_slice(&SECTORS.to_le_bytes());
        config[34..36].copy_from_slice(&(self.queues as u16).to_le_bytes());
        config.iter().copied().chain(std::iter::repeat(0)).skip(offset as usize).take(size as usize).collect()
    }

    fn update_memory(&mut self, _memory: Memory) -> Result<()> {
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<EventFd> {
        self.exit.try_clone().ok()
    }

    fn handle_event(&mut self, queue: u16, _set: EventSet, vrings: &[VringMutex], _thread: usize) -> Result<()> {
        self.serve(&mut vrings[queue as usize].get_mut())
    }
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.len() != 3 {
        eprintln!("usage: null-disk SOCKET QUEUES");
        std::process::exit(2);
    }
    let queues = words[2].parse().expect("QUEUES is a number");
    let listener = UnixListener::bind(&words[1]).expect("the socket");
    loop {
        // SAFETY: a descriptor of the Listener's own.
        let one = unsafe { Listener::from_raw_fd(listener.try_clone().expect("a descriptor").into_raw_fd()) };
        let memory = Memory::new(GuestMemoryMmap::new());
        let exit = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let disk = NullDisk { queues, memory: memory.clone(), exit: exit.try_clone().expect("an eventfd") };
        let mut daemon = VhostUserDaemon::new("null-disk".into(), Arc::new(RwLock::new(disk)), memory).expect("a daemon");
        daemon.start(one).expect("a connection");
        if let Err(e) = daemon.wait() {
            eprintln!("connection: {e}");
        }
        exit.write(1).expect("the eventfd");
    }
}
