/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Shared objects: who added which, and lookups on their way from one front-end to another. A table's lock is held for a few
 * loads and stores, never over a call; everything behind "table->" is guarded by it.
 *
 * A lookup is answered from two threads, so nobody waits for the other: the asking front-end remembers it and stops reading its
 * channel (answers go in order); the owner's bell rings, and its next dispatch asks its back-end; the asker's bell rings, and
 * its next turn answers. A lookup has a time limit, for a back-end that waits for it may be what keeps the owner's
 * thread busy. A ticket tells whether the lookup is still the same.
 *
 * Source: vhost-user, "VHOST_USER_BACKEND_SHARED_OBJECT_ADD", "_REMOVE", "_LOOKUP", "VHOST_USER_GET_SHARED_OBJECT".
 */
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "frontend/vhost_user.h"

#define LOOKUP_NS 1000000000u

struct entry {
        struct entry *next;
        uint8_t uuid[16];
        struct vhk_vu_objects *owner;
};

struct vhk_objects {
        pthread_mutex_t lock;
        struct vhk_vu_objects *members;
        struct entry *entries;
        uint64_t tickets;
};

VHK_API int vhk_objects_new(struct vhk_objects **ret_o) {
        struct vhk_objects *o = calloc(1, sizeof(*o));

        if (!o)
                return -ENOMEM;
        pthread_mutex_init(&o->lock, NULL);
        *ret_o = o;
        return 0;
}

VHK_API struct vhk_objects *vhk_objects_free(struct vhk_objects *o) {
        if (!o || o->members)
                return o;
        pthread_mutex_destroy(&o->lock);
        free(o);
        return NULL;
}

/* ---- under the lock ---- */

static struct entry **find(struct vhk_objects *t, const uint8_t uuid[16]) {
        struct entry **e = &t->entries;

        while (*e && memcmp((*e)->uuid, uuid, sizeof((*e)->uuid)))
                e = &(*e)->next;
        return e;
}

static void finish(struct vhk_vu_objects *asker, int *fd) {
        asker->state = VHK_LOOKUP_DONE;
        asker->fd = VHK_STEAL_FD(*fd);
        vhk_notify_fd(asker->answer_bell);
}

static void remove_entry(struct entry **e) {
        struct entry *gone = *e;

        *e = gone->next;
        gone->owner->n_added--;
        free(gone);
}

/* ---- the back-end's requests ---- */

int vhk_vu_object_add(struct vhk_vhost_user *u, const uint8_t uuid[16], struct vhk_error *ret_e) {
        struct vhk_vu_objects *me = &u->objects;
        struct entry *e = malloc(sizeof(*e));
        int k = 0;

        if (!e)
                return vhk_error_set(ret_e, -ENOMEM, "objects.memory", "out of memory");
        pthread_mutex_lock(&me->table->lock);
        if (*find(me->table, uuid))
                k = vhk_error_set(ret_e, -EEXIST, "objects.taken", "there is an object of this UUID");
        else if (me->n_added == VHK_OBJECTS_PER_DEVICE)
                k = vhk_error_set(ret_e, -ENOSPC, "objects.limit", "the device has added %u objects already", VHK_OBJECTS_PER_DEVICE);
        if (k == 0) {
                *e = (struct entry){ .next = me->table->entries, .owner = me };
                memcpy(e->uuid, uuid, sizeof(e->uuid));
                me->table->entries = e;
                me->n_added++;
        } else {
                free(e);
        }
        pthread_mutex_unlock(&me->table->lock);
        return k;
}

int vhk_vu_object_remove(struct vhk_vhost_user *u, const uint8_t uuid[16], struct vhk_error *ret_e) {
        struct vhk_vu_objects *me = &u->objects;
        int k = 0;

        pthread_mutex_lock(&me->table->lock);
        struct entry **e = find(me->table, uuid);
        if (!*e)
                k = vhk_error_set(ret_e, -ENOENT, "objects.unknown", "there is no object of this UUID");
        else if ((*e)->owner != me)
                k = vhk_error_set(ret_e, -EPERM, "objects.foreign", "another device added the object of this UUID");
        else
                remove_entry(e);
        pthread_mutex_unlock(&me->table->lock);
        return k;
}

int vhk_vu_object_lookup(struct vhk_vhost_user *u, const uint8_t uuid[16], struct vhk_error *ret_e) {
        struct vhk_vu_objects *me = &u->objects;

        pthread_mutex_lock(&me->table->lock);
        struct entry *e = *find(me->table, uuid);
        if (e) {
                me->state = VHK_LOOKUP_ASKED;
                me->owner = e->owner;
                me->ticket = ++me->table->tickets;
                memcpy(me->uuid, uuid, sizeof(me->uuid));
                vhk_notify_fd(e->owner->ask_bell);
        }
        pthread_mutex_unlock(&me->table->lock);
        if (!e)
                return vhk_error_set(ret_e, -ENOENT, "objects.unknown", "there is no object of this UUID");
        me->waits = true;
        me->deadline = vhk_time_after(vhk_now_ns(), LOOKUP_NS);
        vhk_vu_arm_timer(u);
        return 1;
}

/* ---- the asker's turn ---- */

uint64_t vhk_vu_lookup_deadline(const struct vhk_vhost_user *u) {
        return u->objects.waits ? u->objects.deadline : UINT64_MAX;
}

bool vhk_vu_lookup_is_over(struct vhk_vhost_user *u, int *ret_fd) {
        struct vhk_vu_objects *me = &u->objects;

        vhk_drain_fd(me->answer_bell);
        pthread_mutex_lock(&me->table->lock);
        bool over = me->state == VHK_LOOKUP_DONE || vhk_now_ns() >= me->deadline;
        if (over) {
                *ret_fd = me->state == VHK_LOOKUP_DONE ? VHK_STEAL_FD(me->fd) : -1;
                me->state = VHK_LOOKUP_NONE;
                me->waits = false;
        }
        pthread_mutex_unlock(&me->table->lock);
        if (over)
                vhk_vu_arm_timer(u);
        return over;
}

/* ---- the owner's turn ---- */

/* One lookup that is for @me, taken: its ticket, or 0. */
static uint64_t take_lookup(struct vhk_vu_objects *me, struct vhk_p_uuid *ret_uuid) {
        uint64_t ticket = 0;

        pthread_mutex_lock(&me->table->lock);
        for (struct vhk_vu_objects *m = me->table->members; m && !ticket; m = m->next)
                if (m->state == VHK_LOOKUP_ASKED && m->owner == me) {
                        m->state = VHK_LOOKUP_TAKEN;
                        ticket = m->ticket;
                        memcpy(ret_uuid->uuid, m->uuid, sizeof(m->uuid));
                }
        pthread_mutex_unlock(&me->table->lock);
        return ticket;
}

void vhk_vu_answer_lookup(struct vhk_vhost_user *u, uint64_t ticket, int fd) {
        struct vhk_objects *t = u->objects.table;

        pthread_mutex_lock(&t->lock);
        for (struct vhk_vu_objects *m = t->members; m; m = m->next)
                if (m->state == VHK_LOOKUP_TAKEN && m->ticket == ticket)
                        finish(m, &fd);
        pthread_mutex_unlock(&t->lock);
        vhk_close(&fd);                 /* nobody waits for it any more */
}

int vhk_vu_serve_lookups(struct vhk_vhost_user *u) {
        struct vhk_vu_objects *me = &u->objects;
        struct vhk_p_uuid p;
        uint64_t ticket;
        int n = 0;

        if (!me->table)
                return 0;
        vhk_drain_fd(me->ask_bell);
        while (u->n_posted < VHK_VU_POSTED && (ticket = take_lookup(me, &p))) {
                int k = vhk_vu_post(u, &(struct vhk_vu_call){ .id = VHK_FE_GET_SHARED_OBJECT, .payload = &p, .size = sizeof(p) }, ticket);
                if (k < 0)
                        vhk_vu_answer_lookup(u, ticket, -1);
                if (k < 0 && u->f.end.code)
                        return k;
                n++;
        }
        return n;
}

/* ---- coming and going ---- */

int vhk_vu_objects_join(struct vhk_vhost_user *u, struct vhk_objects *table) {
        struct vhk_vu_objects *me = &u->objects;

        me->ask_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        me->answer_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (me->ask_bell < 0 || me->answer_bell < 0)
                return vhk_errno();
        for (unsigned i = 0; i < 2; i++) {
                struct epoll_event e = { .events = EPOLLIN };
                if (epoll_ctl(u->epoll_fd, EPOLL_CTL_ADD, i ? me->ask_bell : me->answer_bell, &e) < 0)
                        return vhk_errno();
        }
        pthread_mutex_lock(&table->lock);
        me->table = table;
        me->next = table->members;
        table->members = me;
        pthread_mutex_unlock(&table->lock);
        return 0;
}

void vhk_vu_objects_forget(struct vhk_vhost_user *u) {
        struct vhk_vu_objects *me = &u->objects;
        int none = -1;

        if (!me->table)
                return;
        pthread_mutex_lock(&me->table->lock);
        for (struct entry **e = &me->table->entries; *e;)
                if ((*e)->owner == me)
                        remove_entry(e);
                else
                        e = &(*e)->next;
        for (struct vhk_vu_objects *m = me->table->members; m; m = m->next)
                if ((m->state == VHK_LOOKUP_ASKED || m->state == VHK_LOOKUP_TAKEN) && m->owner == me)
                        finish(m, &none);
        me->state = VHK_LOOKUP_NONE;
        vhk_close(&me->fd);
        pthread_mutex_unlock(&me->table->lock);
        me->waits = false;
        vhk_vu_arm_timer(u);
}

void vhk_vu_objects_leave(struct vhk_vhost_user *u) {
        struct vhk_vu_objects *me = &u->objects, **at;

        vhk_vu_objects_forget(u);
        if (me->table) {
                pthread_mutex_lock(&me->table->lock);
                for (at = &me->table->members; *at != me; at = &(*at)->next)
                        ;
                *at = me->next;
                pthread_mutex_unlock(&me->table->lock);
        }
        me->table = NULL;
        vhk_close(&me->ask_bell);
        vhk_close(&me->answer_bell);
}
