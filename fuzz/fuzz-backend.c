/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A whole back-end session: a front-end that says anything, guest memory that holds anything, a device that is slow, time
 * that passes. An input is a script in the words of back-end.h. After each word the loop must come to rest; after the last
 * one every descriptor, watch and request must be back, and the end told once.
 */
#include <signal.h>
#include <vhostkit/memory.h>

#include "fuzz/back-end.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_sigbus(int sig, siginfo_t *si, void *context) {
        if (vhk_sigbus_try(si) != 1)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static bool ready;

        if (!ready) {
                struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
                MUST(sigaction(SIGBUS, &sa, NULL) == 0);
                fz_session(NULL, 0, false);
                ready = true;
        }
        struct fd_mark fds = fd_mark();
        fz_session(data, size, false);
        fd_check(fds);
        return 0;
}
