/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Messages for one class of device, the byte order of a ring, in-band kicks, and pages for kicks, over vhost-user. One thread.
 * Source: vhost-user, "Front-end message types", "In-band messages".
 */
#include <sys/stat.h>

#include "base/peer.h"
#include "frontend/vhost_user.h"

static struct vhk_vhost_user *vu_of(struct vhk_frontend *f) {
        return vhk_container_of(f, struct vhk_vhost_user, f);
}

static int say_u64(struct vhk_frontend *f, enum vhk_msg_id id, uint64_t value) {
        int k = vhk_vu_call_u64(vu_of(f), id, value);

        return k < 0 ? k : vhk_vu_settle(vu_of(f));
}

static int say_ring(struct vhk_frontend *f, enum vhk_msg_id id, unsigned i, uint32_t num) {
        struct vhk_vhost_user *u = vu_of(f);

        if (i >= u->state.n_queues)
                return vhk_frontend_fail(f, -EINVAL, "frontend.queue", "the back-end on %s has %u rings, there is no ring %u", u->name, u->state.n_queues, i);
        int k = vhk_vu_call_state(u, id, i, num);
        return k < 0 ? k : vhk_vu_settle(u);
}

int vhk_vu_send_rarp(struct vhk_frontend *f, const uint8_t mac[6]) {
        uint64_t word = 0;

        memcpy(&word, mac, 6);
        return say_u64(f, VHK_FE_SEND_RARP, word);
}

int vhk_vu_set_mtu(struct vhk_frontend *f, uint16_t mtu) {
        int ret = say_u64(f, VHK_FE_NET_SET_MTU, mtu);

        if (ret == 0)
                vu_of(f)->set.mtu = mtu;
        return ret;
}

int vhk_vu_set_vring_endian(struct vhk_frontend *f, unsigned i, int big) {
        int ret = say_ring(f, VHK_FE_SET_VRING_ENDIAN, i, !!big);

        if (ret == 0)
                vu_of(f)->set.rings[i].endian = (uint8_t)(1 + !!big);
        return ret;
}

int vhk_vu_kick_queue(struct vhk_frontend *f, unsigned i) {
        return say_ring(f, VHK_FE_VRING_KICK, i, 0);
}

int vhk_vu_crypto_create(struct vhk_frontend *f, enum vhk_crypto_form form, const void *session, uint64_t *ret_id) {
        uint32_t size = form == VHK_CRYPTO_FORM_632 ? sizeof(struct vhk_p_crypto_session_old) : sizeof(struct vhk_p_crypto_session);
        union vhk_p_any reply;

        int k = vhk_vu_call(vu_of(f), &(struct vhk_vu_call){ .id = VHK_FE_CREATE_CRYPTO_SESSION, .payload = session, .size = size }, &reply, NULL);
        if (k < 0)
                return k;
        int64_t id = form == VHK_CRYPTO_FORM_632 ? reply.crypto_session_old.session_id : reply.crypto_session.session_id;
        if (id < 0)
                return vhk_frontend_fail(f, -EREMOTEIO, "frontend.refused", "the back-end on %s makes no such crypto session (its answer: %lld)", vu_of(f)->name,
                                         (long long)id);
        vu_of(f)->set.n_crypto_sessions++;
        *ret_id = (uint64_t)id;
        return 0;
}

int vhk_vu_crypto_close(struct vhk_frontend *f, uint64_t id) {
        int ret = say_u64(f, VHK_FE_CLOSE_CRYPTO_SESSION, id);

        if (ret == 0 && vu_of(f)->set.n_crypto_sessions)
                vu_of(f)->set.n_crypto_sessions--;
        return ret;
}

/* ---- pages for kicks ---- */

static int take_away(struct vhk_vhost_user *u, unsigned i) {
        if (u->has_notifier[i])
                (void)u->f.options.on_notifier(u->f.options.event_arg, i, -1, 0);
        u->has_notifier[i] = false;
        return 0;
}

int vhk_vu_set_notifier(struct vhk_vhost_user *u, const struct vhk_p_vring_area *p, int fd, struct vhk_error *ret_e) {
        unsigned i = p->ring & VHK_RING_INDEX_MASK;
        uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
        struct stat st;

        if (p->ring & VHK_RING_NO_FD)
                return take_away(u, i);
        if (p->len != page || p->offset % page)
                return vhk_error_set(ret_e, -EINVAL, "notifier.page", "ring %u: %llu bytes at %llu are not one page", i, (unsigned long long)p->len,
                                     (unsigned long long)p->offset);
        if (vhk_peer_stat(fd, &st) < 0 || (S_ISREG(st.st_mode) && !vhk_range_within(p->offset, p->len, (uint64_t)st.st_size)))
                return vhk_error_set(ret_e, -EINVAL, "notifier.size", "ring %u: its page is behind the end of the file", i);
        int k = u->f.options.on_notifier(u->f.options.event_arg, i, fd, p->offset);
        u->has_notifier[i] = k >= 0;
        return k < 0 ? vhk_error_set(ret_e, k, "notifier.map", "ring %u: the page is not mapped: %s", i, strerror(-k)) : 0;
}

void vhk_vu_notifiers_forget(struct vhk_vhost_user *u) {
        for (unsigned i = 0; i < VHK_N(u->has_notifier); i++)
                take_away(u, i);
}
