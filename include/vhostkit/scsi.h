/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * SCSI commands over a virtio SCSI host (virtio 1.3, 5.6): of the kernel's vhost-scsi or of any other front-end. An object belongs to one
 * thread at a time. Commands are taken as they are; what comes back is told word for word, and as one error.
 */
#ifndef VHOSTKIT_SCSI_H
#define VHOSTKIT_SCSI_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <vhostkit/error.h>
#include <vhostkit/frontend.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_scsi;

#define VHK_SCSI_CDB 32u                /* most bytes of a command */
#define VHK_SCSI_SENSE 96u              /* most bytes of sense data */
#define VHK_SCSI_SEGMENTS 64u           /* most pieces of memory, of both directions together */

/**
 * struct vhk_scsi_options - zero it, set @size
 * @frontend: how to open; NULL: defaults
 * @wwpn, @tpgt: the target, where the front-end chooses one (vhost-scsi); NULL elsewhere
 * @queue_size: entries, which is most commands at a time; 0: 128, or as many of them as the
 *              back-end takes
 */
struct vhk_scsi_options {
        size_t size;
        const struct vhk_frontend_options *frontend;
        const char *wwpn;
        uint16_t tpgt;
        uint16_t queue_size;
};

/** vhk_scsi_open() - as vhk_frontend_open(), and vhk_frontend_scsi_set_endpoint(); the story is in @ret_e */
int vhk_scsi_open(const char *spec, const struct vhk_scsi_options *o, struct vhk_scsi **ret_s, struct vhk_error *ret_e);
/** vhk_scsi_close() - commands that are not done are forgotten; as vhk_blk_close(): within
 * limit_ns, from inside of a callback too; NULL is legal */
struct vhk_scsi *vhk_scsi_close(struct vhk_scsi *s);
struct vhk_frontend *vhk_scsi_get_frontend(struct vhk_scsi *s);         /* stays the host's */
/** vhk_scsi_alloc() - memory for data, until the host is closed; NULL: there is none. Nothing else is taken */
void *vhk_scsi_alloc(struct vhk_scsi *s, size_t size);

/** What became of a command on its way (virtio 1.3, 5.6.6.1) */
enum vhk_scsi_response {
        VHK_SCSI_OK, VHK_SCSI_OVERRUN, VHK_SCSI_ABORTED, VHK_SCSI_BAD_TARGET, VHK_SCSI_RESET, VHK_SCSI_BUSY, VHK_SCSI_TRANSPORT_FAILURE,
        VHK_SCSI_TARGET_FAILURE, VHK_SCSI_NEXUS_FAILURE, VHK_SCSI_FAILURE,
};

/**
 * struct vhk_scsi_command - a command; set @size
 * @target, @lun: whom it is for: 0 to 255 (vhost-scsi: its @tpgt), 0 to 16383
 * @cdb, @cdb_len: the command itself
 * @out, @n_out: data for it
 * @in, @n_in: room for its data
 */
struct vhk_scsi_command {
        size_t size;
        uint8_t target;
        uint16_t lun;
        const void *cdb;
        uint8_t cdb_len;
        const struct iovec *out, *in;
        unsigned n_out, n_in;
};

/**
 * struct vhk_scsi_result - its end. It has no size, for arrays of it are filled; @sense has room
 * for the longest sense data of SCSI
 * @cookie: the caller's
 * @error: 0: @response is VHK_SCSI_OK and @status 0; -EIO: a status, most often 2 with sense data; -ENODEV (bad target), -EBUSY, -ECANCELED
 *         (aborted, reset), -EOVERFLOW (overrun), -EREMOTEIO (any other response); -EPROTO: the device said nothing, or nonsense
 * @response: enum vhk_scsi_response
 * @status: of SCSI
 * @residual: bytes of data that were not moved
 * @sense_len, @sense: why, of SCSI
 */
struct vhk_scsi_result {
        void *cookie;
        int error;
        uint8_t response, status;
        uint16_t status_qualifier;
        uint32_t residual, sense_len;
        uint8_t sense[VHK_SCSI_SENSE];
};

/** vhk_scsi_submit() - begin a command; -EAGAIN: too many at a time; -EFAULT: data not of vhk_scsi_alloc(); -EINVAL; -EPIPE: the device has gone */
int vhk_scsi_submit(struct vhk_scsi *s, const struct vhk_scsi_command *c, void *cookie);
/** vhk_scsi_reap() - commands that are done, at most @n; 0: none yet; -EPIPE, when none is left:
 * the device has gone, or broke the rules of its ring */
int vhk_scsi_reap(struct vhk_scsi *s, struct vhk_scsi_result *ret_r, unsigned n);
/** vhk_scsi_get_fd() - readable when there may be something to reap */
int vhk_scsi_get_fd(const struct vhk_scsi *s);
/**
 * vhk_scsi_execute() - one command, and wait for it at most the front-end's limit_ns
 *
 * Return: @ret_r->error; -EBUSY: commands of vhk_scsi_submit() are in flight; -ETIMEDOUT: no answer
 * in time: the device may still write to @c's data, and a later call waits for that answer first;
 * -EPIPE. Of the last two vhk_frontend_get_error() has the text.
 */
int vhk_scsi_execute(struct vhk_scsi *s, const struct vhk_scsi_command *c, struct vhk_scsi_result *ret_r);

#ifdef __cplusplus
}
#endif

#endif
