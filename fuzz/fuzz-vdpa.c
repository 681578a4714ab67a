/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A kernel that answers anything at all to the management of vDPA devices. An input is a byte that chooses the call, then datagrams: a
 * length of two bytes each, and the bytes. Whatever comes, the call ends, with an error or with rows whose texts end, and
 * an error has its story. The linker puts the socket's calls aside for those below (fuzz/meson.build).
 */
#include <sanitizer/asan_interface.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <vhostkit/vdpa.h>

#define FZ_REAL_DESCRIPTORS
#include "fuzz/session.h"
#include "sys/netlink.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __wrap_socket(int domain, int type, int protocol);
int __wrap_setsockopt(int fd, int level, int name, const void *p, socklen_t n);
ssize_t __wrap_sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *to, socklen_t to_len);
ssize_t __wrap_recvmsg(int fd, struct msghdr *m, int flags);

static struct script script;

int __wrap_socket(int domain, int type, int protocol) {
        return eventfd(0, EFD_CLOEXEC);
}

int __wrap_setsockopt(int fd, int level, int name, const void *p, socklen_t n) {
        return 0;
}

ssize_t __wrap_sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *to, socklen_t to_len) {
        const struct nlmsghdr *h = p;

        MUST(h->nlmsg_len == n && h->nlmsg_flags & NLM_F_REQUEST);
        return (ssize_t)n;
}

/* What lies behind a datagram in the library's buffer is poisoned until the next one. */
ssize_t __wrap_recvmsg(int fd, struct msghdr *m, int flags) {
        struct iovec *v = m->msg_iov;

        __asan_unpoison_memory_region(v->iov_base, v->iov_len);
        if (script.p == script.end) {
                errno = EAGAIN;
                return -1;
        }
        size_t n = VHK_MIN((size_t)take16(&script), (size_t)(script.end - script.p));
        n = VHK_MIN(n, v->iov_len);
        memcpy(v->iov_base, script.p, n);
        script.p += n;
        __asan_poison_memory_region((uint8_t *)v->iov_base + n, v->iov_len - n);
        return (ssize_t)n;
}

static int see_mgmt(void *arg, const struct vhk_vdpa_mgmt *m) {
        MUST(m->size == sizeof(*m) && strnlen(m->bus, sizeof(m->bus)) < sizeof(m->bus) && strnlen(m->name, sizeof(m->name)) < sizeof(m->name));
        return 0;
}

static int see_device(void *arg, const struct vhk_vdpa_device *d) {
        MUST(d->size == sizeof(*d) && strnlen(d->name, sizeof(d->name)) < sizeof(d->name));
        MUST(strnlen(d->mgmt_bus, sizeof(d->mgmt_bus)) < sizeof(d->mgmt_bus) && strnlen(d->mgmt_name, sizeof(d->mgmt_name)) < sizeof(d->mgmt_name));
        MUST(strnlen(d->driver, sizeof(d->driver)) < sizeof(d->driver));
        return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct vhk_error e = { 0 };
        struct fd_mark fds = fd_mark();
        int k;

        script = (struct script){ size ? data : (const uint8_t *)"", NULL };
        script.end = script.p + size;
        switch (take8(&script) % 3) {
        case 0:
                k = vhk_vdpa_list_mgmt(see_mgmt, NULL, &e);
                break;
        case 1:
                k = vhk_vdpa_list(see_device, NULL, &e);
                break;
        default:
                k = vhk_vdpa_del("blk0", &e);
                break;
        }
        MUST(k >= 0 ? !e.code : e.code == k && e.rule && e.text[0] && strnlen(e.text, sizeof(e.text)) < sizeof(e.text));
        fd_check(fds);
        return 0;
}
