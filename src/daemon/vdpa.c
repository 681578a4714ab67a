/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The child that puts a device on the vDPA bus and takes it off: see vdpa.h. One question and one answer at a time, as packets. */
#include "daemon/vdpa.h"

#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <vhostkit/vdpa.h>

#include "base/error.h"

struct answer {
        uint32_t verb;
        int32_t code;
        char text[sizeof(((struct vhk_error *)NULL)->text)];
};

/* ---- the child ---- */

static int act(enum dmn_vdpa_verb verb, const char *name, struct vhk_error *ret_e) {
#ifdef VHK_WITH_KERNEL
        struct vhk_vdpa_add a = { .size = sizeof(a), .name = name, .mgmt_name = "vduse" };

        return verb == DMN_VDPA_ADD ? vhk_vdpa_add(&a, ret_e) : vhk_vdpa_del(name, ret_e);
#else
        return vhk_error_set(ret_e, -EOPNOTSUPP, "daemon.vdpa", "this build knows nothing of vDPA");
#endif
}

static void serve(int fd, const char *name) {
        uint32_t verb;

        while (recv(fd, &verb, sizeof(verb), 0) == sizeof(verb)) {
                struct vhk_error e = { .text = "" };
                int k = act((enum dmn_vdpa_verb)verb, name, &e);
                struct answer a = { .verb = verb, .code = k < 0 ? k : 0 };
                snprintf(a.text, sizeof(a.text), "%s", e.text);
                if (send(fd, &a, sizeof(a), MSG_NOSIGNAL) != sizeof(a))
                        break;
        }
}

/* ---- the daemon ---- */

int dmn_vdpa_start(struct dmn_vdpa *v, const char *name, struct vhk_error *ret_e) {
        int fds[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
                return vhk_error_set(ret_e, vhk_errno(), "daemon.vdpa", "socketpair: %s", strerror(errno));
        v->child = fork();
        if (v->child == 0) {            /* signals are blocked: a manager's, to all of us, is the daemon's business */
                prctl(PR_SET_NAME, "vdpa");
                close(fds[0]);
                serve(fds[1], name);
                _exit(0);
        }
        close(fds[1]);
        v->fd = fds[0];
        return v->child < 0 ? vhk_error_set(ret_e, vhk_errno(), "daemon.vdpa", "fork: %s", strerror(errno)) : 0;
}

static void on_answer(void *arg, uint32_t events) {
        struct dmn_vdpa *v = arg;
        struct answer a;
        struct vhk_error e = { .code = -EPIPE, .rule = "daemon.vdpa", .text = "the process that puts devices on the vDPA bus has died" };

        bool died = recv(v->fd, &a, sizeof(a), MSG_DONTWAIT) != sizeof(a);
        if (!died) {
                e.code = a.code;
                snprintf(e.text, sizeof(e.text), "%.*s", (int)sizeof(a.text) - 1, a.text);
        } else {
                v->watch = vhk_watch_free(v->watch);
                a.verb = DMN_VDPA_DEL;
        }
        v->busy = false;
        v->done(v->arg, (enum dmn_vdpa_verb)a.verb, &e);
}

int dmn_vdpa_watch(struct dmn_vdpa *v, struct vhk_worker *control, void (*done)(void *arg, enum dmn_vdpa_verb verb, const struct vhk_error *e),
                   void *arg) {
        v->done = done;
        v->arg = arg;
        return vhk_worker_watch(control, v->fd, EPOLLIN, on_answer, v, &v->watch);
}

/* A child that cannot be asked has died, which on_answer() sees. */
void dmn_vdpa_ask(struct dmn_vdpa *v, enum dmn_vdpa_verb verb) {
        uint32_t x = verb;

        v->busy = true;
        (void)!send(v->fd, &x, sizeof(x), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void dmn_vdpa_end(struct dmn_vdpa *v) {
        v->watch = vhk_watch_free(v->watch);
        vhk_close(&v->fd);
        if (v->child > 0 && !v->busy)   /* else it waits for whoever has the device open */
                waitpid(v->child, NULL, 0);
        v->child = 0;
}
