// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drives a vhost-user disk with the reference crate vhost: every request that the crate can make and a disk has use for.
//!
//!     front-end SOCKET [--no-log]
//!
//! --no-log: without SET_LOG_BASE, whose answer the crate takes in one form alone. The disk has at least 1 MiB, its first 64 KiB are overwritten. Says each step; the first that fails ends it with status 1.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{fence, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures as Protocol};
use vhost::vhost_user::{Frontend, FrontendReqHandler, VhostUserFrontend, VhostUserFrontendReqHandler};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const GUEST: u64 = 0x1_0000_0000; // where memory is in the guest
const MEMORY: usize = 4 << 20;
const QUEUE_SIZE: u16 = 128;
const DESCRIPTORS: usize = 0;
const AVAILABLE: usize = 0x2000;
const USED: usize = 0x4000;
const HEADER: usize = 0x8000;
const STATUS: usize = 0x8100;
const DATA: usize = 0x10000;
const DATA_LEN: usize = 65536;
const VERSION_1: u64 = 1 << 32;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const LOG_ALL: u64 = 1 << 26;
const CONFIG_LEN: u32 = 60;
const WRITE_BACK: u32 = 32; // offset in the configuration
const PAGE: u64 = 4096;

/// Shared memory of a memfd.
struct Shared {
    file: File,
    at: *mut u8,
    len: usize,
}

impl Shared {
    fn new(name: &[u8], len: usize) -> Result<Shared> {
        // SAFETY: the name ends with a zero, the descriptor is ours, the mapping is checked.
        unsafe {
            let fd = libc::memfd_create(name.as_ptr().cast(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            let file = File::from_raw_fd(fd);
            file.set_len(len as u64)?;
            let at = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0);
            if at == libc::MAP_FAILED {
                return Err(std::io::Error::last_os_error().into());
            }
            Ok(Shared { file, at: at.cast(), len })
        }
    }

    fn region(&self, guest: u64) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: guest,
            memory_size: self.len as u64,
            userspace_addr: self.at as u64,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    fn write(&self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= self.len);
        // SAFETY: in the mapping, as was just seen.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.at.add(at), data.len()) }
    }

    fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len);
        // SAFETY: in the mapping, as was just seen.
        (0..len).map(|i| unsafe { self.at.add(at + i).read_volatile() }).collect()
    }

    fn read_u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.read(at, 1)[0], self.read(at + 1, 1)[0]])
    }
}

/// A descriptor that stays the handler's.
struct Raw(RawFd);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

struct NoRequests;

impl VhostUserFrontendReqHandler for NoRequests {}

/// One ring of requests, one request at a time.
struct Ring<'a> {
    memory: &'a Shared,
    kick: EventFd,
    call: EventFd,
    err: EventFd,
    next: u16,
}

impl Ring<'_> {
    fn new(memory: &Shared) -> Result<Ring<'_>> {
        let new = || EventFd::new(EFD_NONBLOCK);
        Ok(Ring { memory, kick: new()?, call: new()?, err: new()?, next: 0 })
    }

    /// SET_VRING_NUM to SET_VRING_ENABLE.
    fn start(&mut self, front: &mut Frontend, log: bool) -> Result<()> {
        self.memory.write(DESCRIPTORS, &[0; HEADER]);
        self.next = 0;
        let at = |offset: usize| self.memory.at as u64 + offset as u64;
        front.set_vring_num(0, QUEUE_SIZE)?;
        front.set_vring_addr(0, &VringConfigData {
            queue_max_size: QUEUE_SIZE,
            queue_size: QUEUE_SIZE,
            flags: u32::from(log),
            desc_table_addr: at(DESCRIPTORS),
            used_ring_addr: at(USED),
            avail_ring_addr: at(AVAILABLE),
            log_addr: log.then_some(GUEST + USED as u64),
        })?;
        front.set_vring_base(0, 0)?;
        front.set_vring_call(0, &self.call)?;
        front.set_vring_err(0, &self.err)?;
        front.set_vring_kick(0, &self.kick)?;
        front.set_vring_enable(0, true)?;
        Ok(())
    }

    /// Reads or writes DATA_LEN bytes at sector 0.
    fn request(&mut self, write: bool) -> Result<()> {
        let mut header = [0; 16];
        header[0] = u8::from(write);
        self.memory.write(HEADER, &header);
        self.memory.write(STATUS, &[255]);
        let descriptor = |n: usize, at: usize, len: usize, flags: u16, next: u16| {
            let mut d = (GUEST + at as u64).to_le_bytes().to_vec();
            d.extend((len as u32).to_le_bytes());
            d.extend(flags.to_le_bytes());
            d.extend(next.to_le_bytes());
            self.memory.write(DESCRIPTORS + 16 * n, &d);
        };
        descriptor(0, HEADER, 16, 1, 1);
        descriptor(1, DATA, DATA_LEN, if write { 1 } else { 3 }, 2);
        descriptor(2, STATUS, 1, 2, 0);
        let slot = AVAILABLE + 4 + 2 * usize::from(self.next % QUEUE_SIZE);
        self.memory.write(slot, &[0, 0]);
        self.next += 1;
        fence(Ordering::SeqCst);
        self.memory.write(AVAILABLE + 2, &self.next.to_le_bytes());
        fence(Ordering::SeqCst);
        self.kick.write(1)?;
        let end = Instant::now() + Duration::from_secs(20);
        while self.memory.read_u16(USED + 2) != self.next {
            if Instant::now() > end {
                return Err("no answer to a request after 20 s".into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        fence(Ordering::SeqCst);
        match self.memory.read(STATUS, 1)[0] {
            0 => Ok(()),
            status => Err(format!("a request's status is {status}, expected 0").into()),
        }
    }
}

fn pattern(seed: u8) -> Vec<u8> {
    (0..DATA_LEN).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed)).collect()
}

/// Writes, spoils the buffer, reads back, compares.
fn write_and_read(ring: &mut Ring, seed: u8) -> Result<()> {
    let wanted = pattern(seed);
    ring.memory.write(DATA, &wanted);
    ring.request(true)?;
    ring.memory.write(DATA, &vec![0xee; DATA_LEN]);
    ring.request(false)?;
    if ring.memory.read(DATA, DATA_LEN) != wanted {
        return Err("what was read is not what was written".into());
    }
    Ok(())
}

fn negotiate(front: &mut Frontend, more: u64) -> Result<Protocol> {
    let offered = front.get_features()?;
    let wanted = VERSION_1 | PROTOCOL_FEATURES | more;
    if offered & wanted != wanted {
        return Err(format!("features {offered:#x} on offer, expected at least {wanted:#x}").into());
    }
    let protocol = front.get_protocol_features()?;
    let wanted = Protocol::MQ | Protocol::LOG_SHMFD | Protocol::REPLY_ACK | Protocol::BACKEND_REQ | Protocol::CONFIG
        | Protocol::INFLIGHT_SHMFD | Protocol::RESET_DEVICE | Protocol::CONFIGURE_MEM_SLOTS;
    if !protocol.contains(wanted) {
        return Err(format!("protocol features {protocol:?} on offer, expected at least {wanted:?}").into());
    }
    front.set_protocol_features(wanted)?;
    front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    front.set_features(offered & wanted_features(more))?;
    Ok(protocol)
}

fn wanted_features(more: u64) -> u64 {
    VERSION_1 | PROTOCOL_FEATURES | 1 << 9 | 1 << 11 | more // with FLUSH, CONFIG_WCE
}

fn configuration(front: &mut Frontend) -> Result<()> {
    let flags = VhostUserConfigFlags::WRITABLE;
    let (_, config) = front.get_config(0, CONFIG_LEN, flags, &[0; CONFIG_LEN as usize])?;
    let capacity = u64::from_le_bytes(config[..8].try_into()?);
    if capacity < 2048 {
        return Err(format!("the disk has {capacity} sectors, expected 2048 or more").into());
    }
    for wanted in [0, 1] {
        front.set_config(WRITE_BACK, flags, &[wanted])?;
        let (_, seen) = front.get_config(WRITE_BACK, 1, flags, &[0])?;
        if seen[0] != wanted {
            return Err(format!("write-back was set to {wanted} and is {}", seen[0]).into());
        }
    }
    println!("ok configuration: {capacity} sectors, write-back off and on");
    Ok(())
}

fn memory_slots(front: &mut Frontend) -> Result<()> {
    let slots = front.get_max_mem_slots()?;
    let more = Shared::new(b"more\0", 1 << 20)?;
    let region = more.region(GUEST + (1 << 30));
    front.add_mem_region(&region)?;
    front.remove_mem_region(&region)?;
    println!("ok memory slots: {slots}, one added and removed");
    Ok(())
}

fn in_flight_record(front: &mut Frontend) -> Result<()> {
    let wanted = VhostUserInflight { num_queues: 1, queue_size: QUEUE_SIZE, ..Default::default() };
    let (record, file) = front.get_inflight_fd(&wanted)?;
    front.set_inflight_fd(&record, file.as_raw_fd())?;
    println!("ok in-flight record: {} bytes", record.mmap_size);
    Ok(())
}

/// The log has a bit for each page that the disk wrote to.
fn dirty_log(front: &mut Frontend, ring: &mut Ring) -> Result<()> {
    let log = Shared::new(b"log\0", ((GUEST + MEMORY as u64) / PAGE / 8 + 1) as usize)?;
    front.set_log_base(0, Some(VhostUserDirtyLogRegion { mmap_size: log.len as u64, mmap_offset: 0, mmap_handle: log.file.as_raw_fd() }))?;
    front.set_features(wanted_features(LOG_ALL) & front.get_features()?)?;
    ring.request(false)?;
    front.get_vring_base(0)?;
    for at in (DATA..DATA + DATA_LEN).step_by(PAGE as usize).chain([STATUS]) {
        let page = (GUEST + at as u64) / PAGE;
        if log.read((page / 8) as usize, 1)[0] & 1 << (page % 8) == 0 {
            return Err(format!("page {page:#x} was written to and is not in the log").into());
        }
    }
    println!("ok log: each page that was written to");
    Ok(())
}

fn run(socket: &str, log: bool) -> Result<()> {
    let mut front = Frontend::connect(socket, 1)?;
    front.set_owner()?;
    let protocol = negotiate(&mut front, 0)?;
    println!("ok negotiation: {} queues, {protocol:?}", front.get_queue_num()?);
    configuration(&mut front)?;
    let requests = FrontendReqHandler::new(Arc::new(NoRequests))?;
    front.set_backend_request_fd(&Raw(requests.get_tx_raw_fd()))?;
    println!("ok back-end's own channel");
    let log_event = EventFd::new(EFD_NONBLOCK)?;
    front.set_log_fd(log_event.as_raw_fd())?;
    println!("ok SET_LOG_FD");
    let memory = Shared::new(b"memory\0", MEMORY)?;
    front.set_mem_table(&[memory.region(GUEST)])?;
    memory_slots(&mut front)?;
    in_flight_record(&mut front)?;
    let mut ring = Ring::new(&memory)?;
    ring.start(&mut front, false)?;
    write_and_read(&mut ring, 1)?;
    println!("ok a write and a read of {DATA_LEN} bytes");
    if log {
        dirty_log(&mut front, &mut ring)?;
    } else {
        front.get_vring_base(0)?;
    }
    front.reset_device()?;
    println!("ok RESET_DEVICE");
    front.set_features(wanted_features(0) & front.get_features()?)?;
    front.set_mem_table(&[memory.region(GUEST)])?;
    ring.start(&mut front, false)?;
    write_and_read(&mut ring, 2)?;
    println!("ok a write and a read after RESET_DEVICE");
    front.get_vring_base(0)?;
    front.reset_owner()?;
    println!("ok RESET_OWNER");
    front.get_features()?;
    println!("ok the connection is still in step");
    Ok(())
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let log = words.get(2).is_none();
    if words.len() < 2 || words.len() > 3 || !log && words[2] != "--no-log" {
        eprintln!("usage: front-end SOCKET [--no-log]");
        std::process::exit(2);
    }
    if let Err(e) = run(&words[1], log) {
        eprintln!("front-end: {e}");
        std::process::exit(1);
    }
}
