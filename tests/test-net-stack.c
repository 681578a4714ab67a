/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Checks a vhost-user network back-end that has a network stack behind it (passt, say):
 *
 *      test-net-stack ENDPOINT --port PORT [--frames N] [--no-merge] [--polling]
 *
 * Gets an address by DHCP (RFC 2131), asks for the router by ARP (RFC 826), then sends N UDP datagrams to PORT of the router,
 * where something echoes them: each must come back once, with every byte as it was. Public headers alone.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vhostkit/net.h>

#define BURST 16u
#define IN_FLIGHT 32u
#define WAIT_MS 20000
#define TRY_MS 1000
#define TRIES 20
#define DATA_LEAST 18u
#define DATA_MOST 1400u

struct ethernet {
        uint8_t to[6], from[6];
        uint16_t type;
} __attribute__((packed));

struct ipv4 {
        uint8_t version_len, tos;
        uint16_t len, id, fragment;
        uint8_t ttl, protocol;
        uint16_t sum;
        uint32_t from, to;
} __attribute__((packed));

struct udp {
        uint16_t from, to, len, sum;
} __attribute__((packed));

struct arp {
        uint16_t hardware, protocol;
        uint8_t hardware_len, protocol_len;
        uint16_t operation;
        uint8_t from[6];
        uint32_t from_ip;
        uint8_t to[6];
        uint32_t to_ip;
} __attribute__((packed));

struct dhcp {
        uint8_t op, hardware, hardware_len, hops;
        uint32_t id;
        uint16_t seconds, flags;
        uint32_t client, yours, server, relay;
        uint8_t address[16], name[64], file[128];
        uint32_t magic;
        uint8_t options[64];
} __attribute__((packed));

enum { DHCP_DISCOVER = 1, DHCP_OFFER, DHCP_REQUEST, DHCP_DECLINE, DHCP_ACK };
enum { DHCP_ROUTER = 3, DHCP_ADDRESS = 50, DHCP_TYPE = 53, DHCP_SERVER = 54, DHCP_END = 255 };

static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };
static uint8_t mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 }, router_mac[6];
static uint32_t address, router, dhcp_server;           /* in network byte order */
static uint16_t port;
static unsigned long n_frames = 20000;
static struct vhk_net_queue *queue;
static uint8_t *memory;                                 /* shared with the back-end */

static uint16_t sum16(const void *data, size_t len, uint32_t sum) {
        const uint8_t *p = data;

        for (; len > 1; len -= 2, p += 2)
                sum += (uint32_t)p[0] << 8 | p[1];
        if (len)
                sum += (uint32_t)p[0] << 8;
        while (sum >> 16)
                sum = (sum & 0xffff) + (sum >> 16);
        return (uint16_t)sum;
}

static uint16_t udp_sum(const struct ipv4 *ip, const struct udp *udp) {
        uint32_t sum = sum16(&ip->from, 8, 17u + ntohs(udp->len));

        return htons((uint16_t)~sum16(udp, ntohs(udp->len), sum));
}

/* Ethernet, IPv4 and UDP headers before @len bytes of data; returns the length of the frame. */
static unsigned udp_wrap(uint8_t *frame, const uint8_t to[6], uint32_t from_ip, uint32_t to_ip, uint16_t from, uint16_t to_port,
                         unsigned len) {
        struct ethernet *e = (struct ethernet *)frame;
        struct ipv4 *ip = (struct ipv4 *)(e + 1);
        struct udp *udp = (struct udp *)(ip + 1);

        memcpy(e->to, to, 6);
        memcpy(e->from, mac, 6);
        e->type = htons(0x0800);
        *ip = (struct ipv4){ .version_len = 0x45, .len = htons((uint16_t)(sizeof(*ip) + sizeof(*udp) + len)), .ttl = 64,
                             .protocol = 17, .from = from_ip, .to = to_ip };
        ip->sum = htons((uint16_t)~sum16(ip, sizeof(*ip), 0));
        *udp = (struct udp){ htons(from), htons(to_port), htons((uint16_t)(sizeof(*udp) + len)), 0 };
        udp->sum = udp_sum(ip, udp);
        return (unsigned)(sizeof(*e) + sizeof(*ip) + sizeof(*udp)) + len;
}

static uint8_t *udp_data(uint8_t *frame) {
        return frame + sizeof(struct ethernet) + sizeof(struct ipv4) + sizeof(struct udp);
}

/* Copy a received frame into @ret; returns its length. */
static unsigned flatten(const struct vhk_net_frame *f, uint8_t *ret, unsigned room) {
        unsigned at = 0;

        for (uint32_t i = 0; i < f->n_iov && at < room; i++) {
                unsigned n = (unsigned)f->iov[i].iov_len;
                if (n > room - at)
                        n = room - at;
                memcpy(ret + at, f->iov[i].iov_base, n);
                at += n;
        }
        return at;
}

/* Send one frame and receive until @is_answer takes one. */
static int ask(const char *what, uint8_t *frame, unsigned len, int (*is_answer)(const uint8_t *p, unsigned len)) {
        struct iovec iov = { frame, len };
        struct vhk_net_frame out = { .iov = &iov, .n_iov = 1 }, in;
        uint8_t copy[2048];

        for (unsigned i = 0; i < TRIES; i++) {
                int ret = vhk_net_send(queue, &out, 1);
                while (ret >= 0 && (ret = vhk_net_receive(queue, &in, 1, TRY_MS)) > 0) {
                        unsigned n = flatten(&in, copy, sizeof(copy));
                        vhk_net_release(queue, &in, 1);
                        if (is_answer(copy, n))
                                return 0;
                }
                if (ret < 0)
                        return fprintf(stderr, "%s: %s\n", what, vhk_net_queue_get_error(queue)->text), -1;
        }
        return fprintf(stderr, "%s: no answer\n", what), -1;
}

/* The value of an option of at least @len bytes, or NULL. */
static const uint8_t *dhcp_option(const struct dhcp *d, unsigned room, uint8_t type, unsigned len) {
        for (unsigned i = 0; i + 2 <= room && d->options[i] != DHCP_END; i += 2u + d->options[i + 1])
                if (d->options[i] == type && d->options[i + 1] >= len && i + 2 + len <= room)
                        return d->options + i + 2;
        return NULL;
}

static int is_dhcp(const uint8_t *p, unsigned len, uint8_t wanted) {
        const struct ipv4 *ip = (const struct ipv4 *)(p + sizeof(struct ethernet));
        const struct udp *udp = (const struct udp *)(ip + 1);
        const struct dhcp *d = (const struct dhcp *)(udp + 1);
        unsigned head = (unsigned)((const uint8_t *)d->options - p);
        const uint8_t *type, *gateway, *server;

        if (len < head + 4 || p[12] != 8 || p[13] != 0 || ip->protocol != 17 || ntohs(udp->to) != 68 || d->op != 2)
                return 0;
        type = dhcp_option(d, len - head, DHCP_TYPE, 1);
        gateway = dhcp_option(d, len - head, DHCP_ROUTER, 4);
        server = dhcp_option(d, len - head, DHCP_SERVER, 4);
        if (!type || *type != wanted || !gateway || !server)
                return 0;
        address = d->yours;
        memcpy(&router, gateway, 4);
        memcpy(&dhcp_server, server, 4);
        return 1;
}

static int is_offer(const uint8_t *p, unsigned len) {
        return is_dhcp(p, len, DHCP_OFFER);
}

static int is_ack(const uint8_t *p, unsigned len) {
        return is_dhcp(p, len, DHCP_ACK);
}

static unsigned write_dhcp(uint8_t *frame, uint8_t type) {
        struct dhcp *d = (struct dhcp *)udp_data(frame);
        uint8_t *o = d->options;

        *d = (struct dhcp){ .op = 1, .hardware = 1, .hardware_len = 6, .id = htonl(0x766b6974), .magic = htonl(0x63825363) };
        memcpy(d->address, mac, 6);
        *o++ = DHCP_TYPE, *o++ = 1, *o++ = type;
        if (type == DHCP_REQUEST) {
                *o++ = DHCP_ADDRESS, *o++ = 4, memcpy(o, &address, 4), o += 4;
                *o++ = DHCP_SERVER, *o++ = 4, memcpy(o, &dhcp_server, 4), o += 4;
        }
        *o = DHCP_END;
        return udp_wrap(frame, broadcast, 0, 0xffffffff, 68, 67, sizeof(*d));
}

static int is_arp_answer(const uint8_t *p, unsigned len) {
        const struct arp *a = (const struct arp *)(p + sizeof(struct ethernet));

        if (len < sizeof(struct ethernet) + sizeof(*a) || p[12] != 8 || p[13] != 6 || ntohs(a->operation) != 2 || a->from_ip != router)
                return 0;
        memcpy(router_mac, a->from, 6);
        return 1;
}

static unsigned write_arp(uint8_t *frame) {
        struct ethernet *e = (struct ethernet *)frame;
        struct arp *a = (struct arp *)(e + 1);

        memcpy(e->to, broadcast, 6);
        memcpy(e->from, mac, 6);
        e->type = htons(0x0806);
        *a = (struct arp){ htons(1), htons(0x0800), 6, 4, htons(1), { 0 }, address, { 0 }, router };
        memcpy(a->from, mac, 6);
        return sizeof(*e) + sizeof(*a);
}

static int get_address(void) {
        if (ask("DHCP discover", memory, write_dhcp(memory, DHCP_DISCOVER), is_offer) < 0 ||
            ask("DHCP request", memory, write_dhcp(memory, DHCP_REQUEST), is_ack) < 0 ||
            ask("ARP", memory, write_arp(memory), is_arp_answer) < 0)
                return -1;
        printf("address %s", inet_ntoa((struct in_addr){ address }));
        printf(", router %s at %02x:%02x:%02x:%02x:%02x:%02x\n", inet_ntoa((struct in_addr){ router }), router_mac[0], router_mac[1],
               router_mac[2], router_mac[3], router_mac[4], router_mac[5]);
        return 0;
}

static unsigned data_len(unsigned long n) {
        return DATA_LEAST + (unsigned)(n * 37 % (DATA_MOST - DATA_LEAST + 1));
}

static void write_data(uint8_t *p, unsigned long n) {
        uint64_t number = n;

        memcpy(p, &number, sizeof(number));
        for (unsigned i = 8, len = data_len(n); i < len; i++)
                p[i] = (uint8_t)(n + i * 7);
}

/* 1: datagram @n as it was sent, from where it was sent to; 0: something else on the network; -1: damaged */
static int is_echo(const uint8_t *p, unsigned len, unsigned long n) {
        const struct ipv4 *ip = (const struct ipv4 *)(p + sizeof(struct ethernet));
        const struct udp *udp = (const struct udp *)(ip + 1);
        uint8_t wanted[DATA_MOST];

        if (len < sizeof(struct ethernet) + sizeof(*ip) + sizeof(*udp) || p[12] != 8 || p[13] != 0 || ip->version_len != 0x45 ||
            ip->protocol != 17 || ntohs(udp->from) != port)
                return 0;
        write_data(wanted, n);
        if (memcmp(p, mac, 6) || ip->from != router || ip->to != address || sum16(ip, sizeof(*ip), 0) != 0xffff)
                return -1;
        if (ntohs(udp->len) != sizeof(*udp) + data_len(n) || memcmp(udp + 1, wanted, data_len(n)))
                return -1;
        return 1;
}

static int send_some(unsigned long n_sent, unsigned long n_got) {
        struct vhk_net_frame frames[BURST];
        struct iovec iov[BURST];
        unsigned n = 0;

        for (; n < BURST && n_sent + n < n_frames && n_sent + n - n_got < IN_FLIGHT; n++) {
                uint8_t *p = memory + (n_sent + n) % (2 * IN_FLIGHT) * 2048;
                write_data(udp_data(p), n_sent + n);
                iov[n] = (struct iovec){ p, udp_wrap(p, router_mac, address, router, 5000, port, data_len(n_sent + n)) };
                frames[n] = (struct vhk_net_frame){ .iov = &iov[n], .n_iov = 1 };
        }
        return vhk_net_send(queue, frames, n);
}

static int exchange(void) {
        unsigned long n_sent = 0, n_got = 0;
        struct vhk_net_frame frames[BURST];
        uint8_t copy[2048];

        while (n_got < n_frames) {
                int ret = send_some(n_sent, n_got);
                if (ret < 0)
                        return fprintf(stderr, "datagram %lu is not sent: %s\n", n_sent, strerror(-ret)), 1;
                n_sent += (unsigned)ret;
                ret = vhk_net_receive(queue, frames, BURST, WAIT_MS);
                if (ret <= 0)
                        return fprintf(stderr, "datagram %lu does not come: %s\n", n_got,
                                       ret ? vhk_net_queue_get_error(queue)->text : "time is up"), 1;
                for (int i = 0; i < ret; i++) {
                        int is = is_echo(copy, flatten(&frames[i], copy, sizeof(copy)), n_got);
                        if (is < 0)
                                return fprintf(stderr, "datagram %lu came back as another, in a frame of %u bytes\n", n_got,
                                               frames[i].len), 1;
                        n_got += (unsigned)is;
                }
                vhk_net_release(queue, frames, (unsigned)ret);
        }
        return 0;
}

static int usage(void) {
        fprintf(stderr, "usage: test-net-stack ENDPOINT --port PORT [--frames N] [--no-merge] [--polling]\n");
        return 2;
}

int main(int argc, char **argv) {
        static const struct option options[] = { { "frames", 1, NULL, 'f' }, { "port", 1, NULL, 'p' }, { "no-merge", 0, NULL, 'm' },
                                                 { "polling", 0, NULL, 'o' }, { 0 } };
        struct vhk_frontend_options fo = { .size = sizeof(fo), .connect_ns = 10000000000 };
        struct vhk_net_options o = { .size = sizeof(o), .frontend = &fo, .n_pairs = 1 };
        struct vhk_net_info i = { .size = sizeof(i) };
        struct vhk_net *net;
        struct vhk_error e;
        int c, failed;

        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
                switch (c) {
                case 'f': n_frames = strtoul(optarg, NULL, 0); break;
                case 'p': port = (uint16_t)strtoul(optarg, NULL, 0); break;
                case 'm': o.features_no_take = UINT64_C(1) << 15; break;
                case 'o': o.polling = 1; break;
                default: return usage();
                }
        if (optind + 1 != argc || !port)
                return usage();
        if (vhk_net_open(argv[optind], &o, &net, &e) < 0)
                return fprintf(stderr, "%s\n", e.text), 1;
        vhk_net_get_info(net, &i);
        if (i.has_mac)
                memcpy(mac, i.mac, 6);
        printf("features 0x%llx, header %u, buffers of %u\n", (unsigned long long)i.features, i.header_size, i.buffer_size);
        memory = vhk_net_alloc(net, 2 * IN_FLIGHT * 2048);
        failed = !memory || vhk_net_get_queue(net, 0, &queue) < 0 || get_address() < 0 || exchange();
        vhk_net_close(net);
        if (!failed)
                printf("%lu datagrams went there and back\n", n_frames);
        return failed;
}
