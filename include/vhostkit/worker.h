/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A worker is the home of rings and of control: a mailbox with one doorbell, and an event loop. It has no thread:
 * whoever calls vhk_worker_dispatch() (or runs the foreign loop that it was given) is its thread. One worker for
 * everything makes a single-threaded program.
 */
#ifndef VHOSTKIT_WORKER_H
#define VHOSTKIT_WORKER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_worker;
struct vhk_watch;

/** Called on the worker's thread; @events are EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR as in epoll(7). */
typedef void (*vhk_watch_fn)(void *arg, uint32_t events);

/**
 * struct vhk_loop_ops - a foreign event loop that shall drive a worker
 * @size: sizeof(struct vhk_loop_ops) of the caller
 * @set: watch @fd, level triggered, for @events (EPOLLIN|EPOLLOUT; 0: keep but do not report), or change that;
 *       when it is ready the loop calls vhk_watch_fire(@w, ready events). 0 or a negative errno.
 * @del: stop watching; @w is invalid from then on
 *
 * Both are called on the worker's thread, from inside vhk_* calls and callbacks. Timers are descriptors too
 * (timerfd), so a loop needs nothing else.
 */
struct vhk_loop_ops {
        size_t size;
        int (*set)(void *loop, int fd, uint32_t events, struct vhk_watch *w);
        void (*del)(void *loop, int fd, struct vhk_watch *w);
};

/**
 * vhk_worker_new() - make a worker
 * @ops: the foreign loop; NULL gives the worker an epoll set of its own
 * @loop: first argument of @ops' functions
 *
 * Return: 0; -EINVAL (ops->size); -ENOMEM, -EMFILE and what epoll_create1(2) and eventfd(2) give.
 */
int vhk_worker_new(const struct vhk_loop_ops *ops, void *loop, struct vhk_worker **ret_w);

/** vhk_worker_free() - every watch, timer and poller must be gone, and no other thread inside of vhk_worker_post() or
 * vhk_req_complete() for it; posts still waiting are run. NULL is legal. */
struct vhk_worker *vhk_worker_free(struct vhk_worker *w);

/** vhk_worker_get_fd() - readable when vhk_worker_dispatch() has work; -EOPNOTSUPP on a foreign loop */
int vhk_worker_get_fd(struct vhk_worker *w);

/**
 * vhk_worker_dispatch() - run the pollers, wait at most @timeout_ms (-1: for ever, 0: not at all), handle what is ready
 *
 * The caller becomes the worker's thread. Return: number of events and posts handled, 0 after the time;
 * -EOPNOTSUPP on a foreign loop; -EINTR never.
 */
int vhk_worker_dispatch(struct vhk_worker *w, int timeout_ms);

/** vhk_worker_set_spin() - busy-poll the pollers for up to @ns after the last work before sleeping; 0: never (default) */
void vhk_worker_set_spin(struct vhk_worker *w, uint64_t ns);

/* ---- the mailbox ---- */

struct vhk_post;
typedef void (*vhk_post_fn)(struct vhk_post *p);

/** struct vhk_post - a message to a worker, embedded in what it is about; zero it, set @fn */
struct vhk_post {
        struct vhk_post *next;
        vhk_post_fn fn;
        unsigned queued;        /* private: 1 from vhk_worker_post() until just before fn runs */
};

/**
 * vhk_worker_post() - have @p->fn called once on the worker's thread
 *
 * Any thread; lock-free, never fails, rings the doorbell only if the worker may be asleep. Posts from one thread run
 * in their order. A post that is still queued is not queued again (then fn runs once, after this call, and sees
 * everything written before it). @p must stay alive until fn was called.
 */
void vhk_worker_post(struct vhk_worker *w, struct vhk_post *p);

/* ---- descriptors, timers, pollers: on the worker's thread, or before it runs ---- */

int vhk_worker_watch(struct vhk_worker *w, int fd, uint32_t events, vhk_watch_fn fn, void *arg, struct vhk_watch **ret_watch);
int vhk_watch_set(struct vhk_watch *watch, uint32_t events);
struct vhk_watch *vhk_watch_free(struct vhk_watch *watch);      /* NULL is legal; does not close the fd; legal inside its own fn */
/** vhk_watch_fire() - for foreign loops: @watch's descriptor is ready */
void vhk_watch_fire(struct vhk_watch *watch, uint32_t events);

struct vhk_timer;
typedef void (*vhk_timer_fn)(void *arg);
int vhk_worker_timer(struct vhk_worker *w, vhk_timer_fn fn, void *arg, struct vhk_timer **ret_t);
int vhk_timer_set(struct vhk_timer *t, uint64_t ns);            /* once, @ns from now; 0 disarms */
struct vhk_timer *vhk_timer_free(struct vhk_timer *t);          /* NULL is legal; legal inside its own fn */

/**
 * struct vhk_poller - something that a spinning worker looks at instead of waiting for its descriptor
 * @poll: do what there is to do; return how much that was (0: idle)
 * @arm: before sleeping: ask for a notification again; return 1 if work arrived meanwhile (then the worker does not sleep)
 * @disarm: spinning begins: notifications are not needed. May be NULL.
 *
 * A worker with spin 0 calls neither: its pollers stay armed. Embedded in its owner; all on the worker's thread.
 */
struct vhk_poller {
        struct vhk_poller *next, **prev;        /* private */
        int (*poll)(struct vhk_poller *p);
        int (*arm)(struct vhk_poller *p);
        void (*disarm)(struct vhk_poller *p);
};
void vhk_worker_add_poller(struct vhk_worker *w, struct vhk_poller *p);
void vhk_worker_remove_poller(struct vhk_worker *w, struct vhk_poller *p);

#ifdef __cplusplus
}
#endif

#endif
