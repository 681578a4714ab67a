/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Live migration, as a front-end drives it: the dirty log. One thread at a time, but for the log itself, which back-ends
 * mark while it is read.
 */
#ifndef VHOSTKIT_MIGRATION_H
#define VHOSTKIT_MIGRATION_H

#include <vhostkit/frontend.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * A dirty log: one bit per page of 4096 bytes of guest memory, from guest address 0 on (vhost-user, "Migration"). A back-end
 * sets a page's bit after it has written to it. Pre-copy goes like this:
 *
 *   log, data and rings on (below); copy all pages;
 *   while it is worth it: for each page taken from the log: copy it;
 *   stop the rings; once more: for each page taken from the log: copy it; all off.
 *
 * A page that is taken before it is copied cannot be missed: what is written to it later marks it again.
 */
struct vhk_dirty_log;

/**
 * vhk_dirty_log_new() - a log for guest addresses below @end
 *
 * Memory that a back-end may mark must lie below: of the regions that are lent, and of rings whose address is given to
 * vhk_frontend_log_queue(). -EINVAL (0), -ENOMEM, -EFBIG, -EMFILE.
 */
int vhk_dirty_log_new(uint64_t end, struct vhk_dirty_log **ret_l);
struct vhk_dirty_log *vhk_dirty_log_free(struct vhk_dirty_log *l);
/** vhk_dirty_log_get_fd() - the log's memory, at offset 0; stays the log's */
int vhk_dirty_log_get_fd(const struct vhk_dirty_log *l);
/** vhk_dirty_log_get_size() - bytes of it, each for 8 pages */
uint64_t vhk_dirty_log_get_size(const struct vhk_dirty_log *l);

/**
 * vhk_dirty_log_take() - the next run of marked pages; their marks are taken away
 * @from: look from this guest address on
 *
 * While back-ends mark. A longer run may come in pieces. Return: 1, and *@ret_gpa, *@ret_len in bytes; 0: there is none.
 */
int vhk_dirty_log_take(struct vhk_dirty_log *l, uint64_t from, uint64_t *ret_gpa, uint64_t *ret_len);

/**
 * vhk_frontend_set_log() - where marks go from now on, rings running or not
 * @fd: a descriptor that can be mapped shared; stays the caller's
 * @offset: of the byte for guest address 0, page aligned
 * @size: bytes; enough for all memory that is lent
 *
 * When it returns, a former log is not written to any more. Nothing is marked until one of the two below asks for it. Needs
 * VHK_CAP_LOG; a back-end that does not like the log closes the connection (-EPIPE). A back-end that was found again
 * (VHK_FRONTEND_RECONNECTED) knows of no log: all memory counts as written to, and the log has to be set again.
 */
int vhk_frontend_set_log(struct vhk_frontend *f, int fd, uint64_t offset, uint64_t size);
/** vhk_frontend_set_log_fd() - an eventfd that back-ends may signal when they have marked something; stays the caller's */
int vhk_frontend_set_log_fd(struct vhk_frontend *f, int fd);
/** vhk_frontend_log_data() - mark what is written to the buffers of requests, or do not any more */
int vhk_frontend_log_data(struct vhk_frontend *f, int on);
/**
 * vhk_frontend_log_queue() - mark what is written to the used ring of @i, which was started, or do not any more
 * @gpa: the address that is marked: vhk_ring_setup.device, unless the guest knows its ring by another
 */
int vhk_frontend_log_queue(struct vhk_frontend *f, unsigned i, int on, uint64_t gpa);

#ifdef __cplusplus
}
#endif

#endif
