/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Live migration, as a front-end drives it: where back-ends mark what they write (struct vhk_dirty_log of
 * <vhostkit/memory.h>).
 */
#ifndef VHOSTKIT_MIGRATION_H
#define VHOSTKIT_MIGRATION_H

#include <vhostkit/frontend.h>

#ifdef __cplusplus
extern "C" {
#endif

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
