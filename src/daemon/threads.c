/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Threads are created here and in signals.c, and nowhere else in the library. A ring thread
 * dispatches its worker until a post asks it to end; signals are blocked in all of them (the thread
 * of signals.c takes them).
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>

#include "base/error.h"
#include "daemon/threads.h"

struct dmn_ring_thread {
        struct vhk_worker *worker;
        struct vhk_post bye;
        pthread_t thread;
        bool is_running;
        bool ends;              /* the thread's own */
        unsigned index;
};

unsigned dmn_n_cpus(void) {
        unsigned n = 0;

        for (unsigned bytes = 128; bytes <= 1 << 16; bytes *= 2) {      /* as many CPUs as the kernel may know */
                VHK_AUTOFREE cpu_set_t *set = malloc(bytes);
                if (set && sched_getaffinity(0, bytes, set) >= 0) {
                        n = (unsigned)CPU_COUNT_S(bytes, set);
                        break;
                }
        }
        return n ? n : 1;
}

unsigned dmn_n_ring_threads(enum vhk_threads kind, unsigned n_queues, unsigned wanted) {
        switch (kind) {
        case VHK_THREADS_SINGLE:
                return 0;
        case VHK_THREADS_PER_DEVICE:
                return 1;
        case VHK_THREADS_PER_QUEUE:
                break;
        }
        return VHK_MIN(wanted ? wanted : dmn_n_cpus(), n_queues);
}

static void *dmn_ring_main(void *arg) {
        struct dmn_ring_thread *t = arg;
        char name[16];

        snprintf(name, sizeof(name), "ring-%u", t->index);
        prctl(PR_SET_NAME, name);
        while (!t->ends)
                if (vhk_worker_dispatch(t->worker, -1) < 0) {   /* only our own bugs lead here: end in order */
                        kill(getpid(), SIGTERM);
                        break;
                }
        return NULL;
}

static void dmn_ring_bye(struct vhk_post *p) {
        vhk_container_of(p, struct dmn_ring_thread, bye)->ends = true;
}

static int dmn_ring_start(struct dmn_ring_thread *t, uint64_t spin_ns) {
        int k = vhk_worker_new(NULL, NULL, &t->worker);

        if (k < 0)
                return k;
        vhk_worker_set_spin(t->worker, spin_ns);
        t->bye.fn = dmn_ring_bye;
        k = pthread_create(&t->thread, NULL, dmn_ring_main, t);
        t->is_running = !k;
        return -k;
}

int dmn_threads_start(struct dmn_threads *t, unsigned n_rings, uint64_t spin_ns, struct vhk_error *ret_e) {
        int k = vhk_worker_new(NULL, NULL, &t->control);

        if (k >= 0 && n_rings) {
                t->rings = calloc(n_rings, sizeof(*t->rings));
                k = t->rings ? 0 : -ENOMEM;
        }
        for (unsigned i = 0; k >= 0 && i < n_rings; i++) {
                t->rings[i].index = i;
                t->n_rings = i + 1;
                k = dmn_ring_start(&t->rings[i], spin_ns);
        }
        if (k < 0) {
                dmn_threads_stop(t);
                return vhk_error_set(ret_e, k, "daemon.threads", "threads cannot be started: %s", strerror(-k));
        }
        if (!n_rings)
                vhk_worker_set_spin(t->control, spin_ns);
        return 0;
}

void dmn_threads_stop(struct dmn_threads *t) {
        for (unsigned i = 0; i < t->n_rings; i++)
                if (t->rings[i].is_running)
                        vhk_worker_post(t->rings[i].worker, &t->rings[i].bye);
        for (unsigned i = 0; i < t->n_rings; i++) {
                if (t->rings[i].is_running)
                        pthread_join(t->rings[i].thread, NULL);
                vhk_worker_free(t->rings[i].worker);
        }
        free(t->rings);
        vhk_worker_free(t->control);
        *t = (struct dmn_threads){ 0 };
}

struct vhk_worker *dmn_threads_get_home(struct dmn_threads *t, unsigned queue) {
        return t->n_rings ? t->rings[queue % t->n_rings].worker : t->control;
}
