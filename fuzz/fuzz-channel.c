/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The back-end channel, from the side of the back-end: a whole set-up stands, the device asks, and the front-end answers
 * with anything, late, twice, or never. The front-end's side of the channel is part of fuzz-frontend. An input is a script
 * as in fuzz-backend, but only words about the channel count.
 */
#include "fuzz/back-end.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_message(struct script *s) {
        struct vhk_hdr h;
        uint8_t payload[256];
        bool mine = false;
        int fd = -1, n;

        h.request = take8(s);
        h.flags = take8(s);
        h.size = take16(s);
        n = take8(s);
        take(s, payload, (size_t)n);
        if (h.flags & 64)               /* not a flag of the protocol: a descriptor comes along */
                fd = fz_fd(take8(s) % FD_SOCKET, &mine);
        h.flags &= ~64u;
        if (fz.channel >= 0) {
                fz_send(fz.channel, &h, sizeof(h), &fd, fd >= 0);
                fz_send(fz.channel, payload, (size_t)n, NULL, 0);
        }
        if (mine)
                close(fd);
}

static void step(struct script *s) {
        switch (take8(s) % 8) {
        case 0: case 1: fz_ask_host(take8(s)); break;
        case 2: fz_ack(s); break;
        case 3: fz_on_channel(s); break;
        case 4: on_message(s); break;
        case 5: clock_ns += UINT64_C(1) << take8(s) % 36; break;
        case 6:
                if (take8(s) & 1)
                        vhk_close(&fz.channel);
                else
                        fz_say(VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, FD_SOCKET);
                break;
        case 7:
                for (unsigned i = take8(s); i > 0; i--)
                        fz_ask_host(i % 3 ? VHK_BE_CONFIG_CHANGE_MSG : 0);
                break;
        }
        /* deaf on request: then answers and requests pile up */
        if (take8(s) & 1)
                loop_run();
        else
                fz_turn();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct script s = { size ? data : (const uint8_t *)"", NULL };
        static bool ready;

        if (!ready)
                fz_session(NULL, 0, false);
        ready = true;
        s.end = s.p + size;
        struct fd_mark fds = fd_mark();
        fz_begin();
        fz_setup(take8(&s), 1);
        while (s.p < s.end && fz.b)
                step(&s);
        fz_end();
        fd_check(fds);
        return 0;
}
