/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Generic netlink, as much of it as asks a family of the kernel and reads the answer. A question is written into a fixed
 * buffer; an answer is taken datagram by datagram, its attributes by a table into a struct. Nothing in a datagram is believed
 * before its length was held against what is there. Any thread; the only state is the caller's.
 */
#pragma once

#include <linux/genetlink.h>

#include "base/base.h"

/* A row of a table: the attribute, and the member that it fills. A number's attribute has exactly the member's size; a text is
 * terminated and fits, or the answer is refused. */
struct vhk_nl_field {
        uint16_t type, offset, size;
        bool is_text, is_needed;
};
#define VHK_NL_NUMBER(type, s, member) { type, offsetof(s, member), sizeof(((s *)0)->member), false, false }
#define VHK_NL_TEXT(type, s, member, is_needed) { type, offsetof(s, member), sizeof(((s *)0)->member), true, is_needed }

/* Fills members of @object from the @n bytes of attributes at @p; those that no row names are skipped, members whose attribute is not
 * there are left. 0, or -EBADMSG: cut off, of a wrong length, or one that is needed is missing. */
int vhk_nl_read(const struct vhk_nl_field *fields, unsigned n_fields, const uint8_t *p, size_t n, void *object);

struct vhk_nl_request {
        size_t n;
        VHK_ALIGNED(4) uint8_t bytes[1024];
};
void vhk_nl_begin(struct vhk_nl_request *r, uint16_t family, uint16_t flags, uint8_t command);
void vhk_nl_put(struct vhk_nl_request *r, uint16_t type, const void *p, size_t n);     /* our bug if it does not fit */
void vhk_nl_put_text(struct vhk_nl_request *r, uint16_t type, const char *text);      /* NULL or empty: nothing */

/* An answer as it comes. @on_message gets the attributes of each message of the family; a negative errno ends it all. */
struct vhk_nl_answer {
        uint16_t family;
        uint32_t seq;
        int (*on_message)(void *arg, uint8_t command, const uint8_t *attributes, size_t n);
        void *arg;
        bool is_interrupted;            /* out: what was listed changed meanwhile */
        bool is_garbled;                /* out: -EBADMSG is our judgement of the answer, not the kernel's of the question */
        char text[160];                 /* out: the kernel's own words, or ours; empty: none */
};

/* One datagram of an answer: 1 more has to come, 0 that was all, else the kernel's error, @on_message's, or -EBADMSG. */
int vhk_nl_take(struct vhk_nl_answer *a, const void *datagram, size_t n);

int vhk_nl_open(int *ret_fd);
/* Asks, and takes the answer to its end. 0 or a negative errno, as above; -ETIMEDOUT: there is no end. */
int vhk_nl_ask(int fd, struct vhk_nl_request *r, struct vhk_nl_answer *a);
