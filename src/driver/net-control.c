/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The control queue (virtio 1.3, 5.1.6.5): one command at a time, each awaited. Under @control_lock; no other lock is held meanwhile, so
 * that the connection can be looked after.
 *
 * Class and command, data, and the answer lie apart in lent memory, each in a descriptor of its own, as legacy devices need it. A command that is
 * not answered in time keeps all of that until its answer comes.
 */
#include "driver/net.h"

#define MACS_MOST 512u
#define DATA_AT 64u
#define DATA_MOST (2 * sizeof(vhk_le32) + MACS_MOST * 6u)
#define ACK_AT ((DATA_AT + DATA_MOST + 63) / 64 * 64)
#define TABLES 4u
#define NO_ANSWER 0xffu

enum { CLASS_RX = 0, CLASS_MAC = 1, CLASS_MQ = 4 };
enum { RX_PROMISC = 0, RX_ALLMULTI = 1, MAC_TABLE_SET = 0, MAC_ADDR_SET = 1, MQ_VQ_PAIRS_SET = 0 };
enum { ACK_OK = 0, ACK_ERR = 1 };

static uint64_t gpa_of(void *arg, const void *va, uint64_t len) {
        struct vhk_net *n = arg;

        return vhk_drvdev_gpa(&n->d, &n->control_last, va, len);
}

static int ready(void *arg, void *ret, unsigned at, unsigned k) {
        struct vhk_net *n = arg;

        return vhk_drvq_reap(n->control, (struct vhk_done *)ret + at, k);
}

/* A command is out as long as anybody waits. */
static bool may_come(void *arg) {
        return true;
}

static size_t area_bytes(void) {
        return (ACK_AT + 1 + VHK_PAGE - 1) & ~(size_t)(VHK_PAGE - 1);
}

size_t vhk_net_control_bytes(void) {
        return vhk_drvq_bytes(VHK_NET_CONTROL_SIZE, TABLES) + area_bytes();
}

int vhk_net_control_init(struct vhk_net *n, unsigned index) {
        struct vhk_drvq_options o = { .size = sizeof(o), .num = VHK_NET_CONTROL_SIZE };
        struct vhk_drvq_place p = { .mem = vhk_drvdev_take(&n->d, vhk_drvq_bytes(o.num, TABLES)), .indirect_max = TABLES, .gpa = gpa_of,
                                    .gpa_arg = n };

        n->control_mem = vhk_drvdev_take(&n->d, area_bytes());
        if (!p.mem || !n->control_mem)
                return -ENOMEM;
        int k = vhk_drvq_new_at(n->d.f, index, &o, &p, &n->control);
        return k < 0 ? k : vhk_drvwait_init(&n->control_wait, &(struct vhk_drvwait){ .d = &n->d, .ring = n->control, .ready = ready, .may_come = may_come,
                                                                                 .q = n });
}

void vhk_net_control_done(struct vhk_net *n) {
        vhk_drvwait_done(&n->control_wait);
        n->control = vhk_drvq_free(n->control);
}

static int wait_ms(const struct vhk_net *n) {
        return (int)VHK_MIN((n->d.limit_ns + 999999) / 1000000, (uint64_t)INT32_MAX);
}

static int result_of(uint8_t ack) {
        switch (ack) {
        case ACK_OK:
                return 0;
        case ACK_ERR:
                return -EREMOTEIO;
        default:                        /* it said that it is done and wrote nothing, or nonsense */
                return -EPROTO;
        }
}

/* The data are there. */
static int run(struct vhk_net *n, uint8_t class, uint8_t command, uint32_t bytes) {
        uint8_t *mem = n->control_mem;
        struct iovec sg[3] = { { mem, 2 }, { mem + DATA_AT, bytes }, { mem + ACK_AT, 1 } };
        struct vhk_done done;

        mem[0] = class;
        mem[1] = command;
        mem[ACK_AT] = NO_ANSWER;
        int k = vhk_drvq_add(n->control, sg, 2, 1, n);
        if (k < 0)
                return k == -EPIPE ? vhk_drvdev_fail_end(&n->d, n->control) : k;
        n->control_waits = true;
        vhk_drvq_kick(n->control);      /* a failing eventfd write: the ring is published all the same */
        k = vhk_drvwait_some(&n->control_wait, &done, 1, wait_ms(n));
        if (k == 0)
                return vhk_drvdev_fail(&n->d, -ETIMEDOUT, "net.time-limit", "the control queue: command %u of class %u is not answered within %d ms",
                                       command, class, wait_ms(n));
        n->control_waits = k < 0;
        return k < 0 ? k : result_of(__atomic_load_n(&mem[ACK_AT], __ATOMIC_RELAXED));
}

/* From inside of a callback, or while another command is out? */
static int begin(struct vhk_net *n, unsigned bit) {
        struct vhk_done done;

        if (!vhk_net_has(n, bit) || !n->control)
                return -EOPNOTSUPP;
        int k = vhk_drvdev_lock(&n->d);
        if (k < 0)
                return k;
        vhk_drvdev_unlock(&n->d);
        pthread_mutex_lock(&n->control_lock);
        if (n->control_waits && ready(n, &done, 0, 1) == 1)
                n->control_waits = false;
        if (!n->control_waits)
                return 0;
        k = vhk_drvdev_is_gone(&n->d) || vhk_drvq_is_broken(n->control) ? vhk_drvdev_fail_end(&n->d, n->control) : -EBUSY;
        pthread_mutex_unlock(&n->control_lock);
        return k;
}

static int end(struct vhk_net *n, int k) {
        pthread_mutex_unlock(&n->control_lock);
        return k;
}

static int end_and_leave(struct vhk_net *n, int k) {
        end(n, k);
        vhk_drvdev_leave(&n->d);
        return k;
}

VHK_API int vhk_net_set_mac(struct vhk_net *n, const uint8_t mac[6]) {
        int k = begin(n, VHK_NET_BIT_CTRL_MAC_ADDR);

        if (k < 0)
                return k;
        memcpy(n->control_mem + DATA_AT, mac, 6);
        return end_and_leave(n, run(n, CLASS_MAC, MAC_ADDR_SET, 6));
}

static uint8_t *put_table(uint8_t *at, const uint8_t (*macs)[6], unsigned n) {
        vhk_le32 entries = vhk_le32_of(n);

        memcpy(at, &entries, sizeof(entries));
        if (n)
                memcpy(at + sizeof(entries), macs, n * 6u);
        return at + sizeof(entries) + n * 6u;
}

VHK_API int vhk_net_set_mac_table(struct vhk_net *n, const uint8_t (*unicast)[6], unsigned n_unicast, const uint8_t (*multicast)[6],
                                  unsigned n_multicast) {
        if (n_unicast > MACS_MOST || n_multicast > MACS_MOST - n_unicast)
                return -EINVAL;
        int k = begin(n, VHK_NET_BIT_CTRL_RX);
        if (k < 0)
                return k;
        uint8_t *data = n->control_mem + DATA_AT, *last = put_table(put_table(data, unicast, n_unicast), multicast, n_multicast);
        return end_and_leave(n, run(n, CLASS_MAC, MAC_TABLE_SET, (uint32_t)(last - data)));
}

VHK_API int vhk_net_set_rx_mode(struct vhk_net *n, enum vhk_net_rx_mode mode, int on) {
        if (mode > VHK_NET_RX_ALLMULTI)
                return -EINVAL;
        int k = begin(n, VHK_NET_BIT_CTRL_RX);
        if (k < 0)
                return k;
        n->control_mem[DATA_AT] = !!on;
        return end_and_leave(n, run(n, CLASS_RX, mode == VHK_NET_RX_PROMISC ? RX_PROMISC : RX_ALLMULTI, 1));
}

int vhk_net_control_set_pairs(struct vhk_net *n, unsigned n_pairs) {
        vhk_le16 pairs = vhk_le16_of((uint16_t)n_pairs);

        if (n_pairs < 1 || n_pairs > n->n_pairs)
                return -EINVAL;
        int k = begin(n, VHK_NET_BIT_MQ);
        if (k < 0)
                return k;
        memcpy(n->control_mem + DATA_AT, &pairs, sizeof(pairs));
        return end(n, run(n, CLASS_MQ, MQ_VQ_PAIRS_SET, sizeof(pairs)));
}

VHK_API int vhk_net_set_pairs(struct vhk_net *n, unsigned n_pairs) {
        int k = vhk_net_control_set_pairs(n, n_pairs);

        vhk_drvdev_leave(&n->d);
        return k;
}
