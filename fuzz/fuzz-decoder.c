/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Any bytes as a vhost-user stream: decoder, header check, check, reply check, printer. An input is a struct fuzz_head (the
 * session, and how the stream is cut) and the stream behind it; fuzz/seeds.c makes one from each row of messages.def.
 */
#include <fcntl.h>
#include <stdio.h>

#include "fuzz-decoder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ring(const struct vhk_wire_state *s, const struct vhk_row *row, const void *payload) {
        int ring = vhk_wire_ring(row, payload);

        assert(ring == -1 || (ring >= 0 && (uint32_t)ring < s->n_queues));
        assert((ring >= 0) == (row->scope == VHK_SCOPE_RING || row->scope == VHK_SCOPE_RING_BYTE));
}

static void check_regions(const struct vhk_wire_state *s, const struct vhk_row *row, const void *payload) {
        uint32_t n = 1, sum = 0;

        if (row->request == VHK_P_MEM_REGIONS)
                memcpy(&n, payload, sizeof(n));
        else if (row->request != VHK_P_MEM_REGION_SINGLE)
                return;
        assert(n >= 1 && n <= VHK_MAX_REGIONS);
        for (uint32_t i = 0; i < n; i++)
                sum += vhk_wire_region(s->protocol, payload, i).xen_domid;
        __asm__ volatile("" :: "r"(sum));
}

static void one_message(const struct vhk_wire_state *s, enum vhk_dir dir, const struct vhk_decoder *d, struct vhk_hdr *request) {
        struct vhk_hdr h = vhk_decoder_header(d);
        const struct vhk_row *row = NULL;
        char line[512];
        /* A copy of the exact size, so that the sanitizer sees a read beyond it. */
        uint8_t *payload = malloc(h.size ? h.size : 1);

        assert(payload && h.size <= VHK_MAX_PAYLOAD);
        memcpy(payload, d->payload, h.size);
        enum vhk_rule early = vhk_wire_check_header(s, dir, &h);
        enum vhk_rule r = vhk_wire_check(s, dir, &h, payload, vhk_decoder_n_fds(d), &row);
        assert(r < VHK_N_RULES && vhk_rule_id(r) && (!early || early == r));
        assert(row == vhk_wire_row(dir, h.request, s->phase));
        if (r == VHK_RULE_OK) {
                check_ring(s, row, payload);
                check_regions(s, row, payload);
                assert(vhk_decoder_n_fds(d) <= VHK_MAX_FDS);
        }
        vhk_wire_answer(s, row, &h);
        size_t n = vhk_wire_print(dir, &h, payload, vhk_decoder_n_fds(d), line, sizeof(line));
        assert(n == strlen(line) && n < sizeof(line));
        /* The same message as a reply to the one before. */
        if (vhk_wire_check_reply(s, dir, request, &h, payload, vhk_decoder_n_fds(d)) == VHK_RULE_OK)
                assert(h.request == request->request && h.flags == (VHK_HDR_VERSION | VHK_HDR_REPLY));
        *request = h;
        free(payload);
}

static int spare_fd(void) {
        static int null = -1;

        if (null < 0)
                null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        return fcntl(null, F_DUPFD_CLOEXEC, 0);
}

/* One reception: up to head->step bytes with descriptors every few of them. Number of bytes used. */
static size_t receive(struct vhk_decoder *d, const struct fuzz_head *head, unsigned turn, const uint8_t *data, size_t size) {
        size_t n = VHK_MIN(size, vhk_decoder_want(d));
        unsigned n_fds = turn % (head->fd_every + 1u) == 0 ? head->n_fds % 12u : 0;
        int fds[12];

        n = VHK_MIN(n, (size_t)head->step + 1);
        for (unsigned i = 0; i < n_fds; i++)
                fds[i] = spare_fd();
        memcpy(vhk_decoder_space(d), data, n);
        vhk_decoder_fed(d, n, fds, n_fds);
        return n;
}

static void stream(const struct fuzz_head *head, const uint8_t *data, size_t size) {
        struct vhk_wire_state s = {
                .features_offered = head->features_offered, .features = head->features, .protocol_offered = head->protocol_offered,
                .protocol = head->protocol, .n_queues = head->n_queues, .running = head->running & 1, .phase = head->phase % VHK_N_PHASES,
        };
        enum vhk_dir dir = head->dir % VHK_N_DIRS;
        struct vhk_hdr request = { 0 };
        struct vhk_decoder d;

        if (vhk_decoder_init(&d) < 0)
                return;
        for (unsigned turn = 0; size || vhk_decoder_complete(&d); turn++) {
                if (vhk_decoder_complete(&d)) {
                        one_message(&s, dir, &d, &request);
                        vhk_decoder_next(&d);
                        continue;
                }
                if (!vhk_decoder_want(&d))
                        break;                  /* oversize: a connection would close here */
                size_t n = receive(&d, head, turn, data, size);
                data += n;
                size -= n;
        }
        vhk_decoder_done(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct fuzz_head head;
        int before = spare_fd();

        close(before);
        if (size < sizeof(head))
                return 0;
        memcpy(&head, data, sizeof(head));
        stream(&head, data + sizeof(head), size - sizeof(head));
        int after = spare_fd();                 /* the lowest free number: the same, unless a descriptor was left behind */
        close(after);
        assert(before == after);
        return 0;
}
