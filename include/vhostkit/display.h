/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The display of a virtio GPU, whose device is in one program and whose window is in another: struct vhk_display is what the device draws
 * on (vhost-user's GPU_SET_SOCKET and the protocol behind it), struct vhk_frontend_display is who shows it.
 */
#ifndef VHOSTKIT_DISPLAY_H
#define VHOSTKIT_DISPLAY_H

#include <vhostkit/device.h>
#include <vhostkit/error.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_display;

#define VHK_DISPLAY_SCANOUTS 16u        /* numbered from 0 */
#define VHK_DISPLAY_SIDE_MAX 8192u      /* pixels; no scanout is wider or higher */
#define VHK_DISPLAY_CURSOR_SIDE 64u     /* a cursor is always this wide and high */
#define VHK_DISPLAY_EDID_MAX 1024u
#define VHK_DISPLAY_QUEUE_MAX (64u << 20)       /* most bytes that wait for a front-end that does not read; one message may be larger */

/** What a front-end's display can do beside the rest: bits of vhk_display_ops.opened and vhk_frontend_display.features */
#define VHK_DISPLAY_EDID (1u << 0)      /* vhk_display_get_edid() */
#define VHK_DISPLAY_DMABUF2 (1u << 1)   /* a dma-buf's modifier goes with it */

struct vhk_display_rect {
        uint32_t x, y, width, height;
};

/** struct vhk_display_mode - what the front-end would like of one scanout; @flags of virtio's struct virtio_gpu_display_one */
struct vhk_display_mode {
        struct vhk_display_rect rect;
        uint32_t enabled, flags;
};
struct vhk_display_info {
        struct vhk_display_mode modes[VHK_DISPLAY_SCANOUTS];
};

/** struct vhk_display_cursor - a8r8g8b8; the hot spot is the driver's and may be outside */
struct vhk_display_cursor {
        uint32_t hot_x, hot_y;
        uint32_t pixels[VHK_DISPLAY_CURSOR_SIDE * VHK_DISPLAY_CURSOR_SIDE];
};

/**
 * struct vhk_display_dmabuf - a scanout that shows a dma-buf; set @size
 * @rect: where in the buffer it is; width and height 0: the scanout is off (and there is no buffer)
 * @fd_width, @fd_height, @stride, @fourcc: of the buffer (drm_fourcc.h)
 * @flags: bit 0: row 0 is at the top (virtio's RESOURCE_FLAG_Y_0_TOP)
 * @has_modifier, @modifier: the buffer's, with VHK_DISPLAY_DMABUF2
 * @fd: the buffer, -1 if the scanout is off. Stays the caller's
 */
struct vhk_display_dmabuf {
        size_t size;
        struct vhk_display_rect rect;
        uint32_t fd_width, fd_height, stride, flags, fourcc;
        int has_modifier;
        uint64_t modifier;
        int fd;
};

/* ---- the device's side ---- */

/**
 * struct vhk_display_ops - a device that draws
 * @size: sizeof(struct vhk_display_ops)
 * @opened: control; a front-end shows @d from now on, with the @features (VHK_DISPLAY_*) that both sides know. Nothing is shown yet: set
 *          scanouts and cursors. May be NULL
 * @closed: control; it does not any more (it has gone, or gave another socket: then @opened follows). May be NULL
 */
struct vhk_display_ops {
        size_t size;
        void (*opened)(void *dev, struct vhk_display *d, uint32_t features);
        void (*closed)(void *dev, struct vhk_display *d);
};

/** vhk_host_display() - the device's display, which lives as long as its host, open or not; -EOPNOTSUPP without vhk_device_ops.display */
int vhk_host_display(struct vhk_host *h, struct vhk_display **ret_d);

/*
 * What follows may be called on any thread and never blocks; sent by control, in the order of one thread's calls. The result: 0;
 * -ENOTCONN: it is not open; -EINVAL; -EOPNOTSUPP: the front-end does not know this; -ENOBUFS: the front-end does not read fast
 * enough (leave this out, and show more the next time); -ENOMEM, -EMFILE. Callbacks are called once, on the control worker, if the result
 * was 0: with 0, -ETIMEDOUT, -EPIPE (the display was closed) or -ENOBUFS (too many requests are unanswered).
 */

/** @info: with error 0, as long as the call lasts */
typedef void (*vhk_display_info_fn)(void *arg, int error, const struct vhk_display_info *info);
/** @edid: @n bytes, as long as the call lasts */
typedef void (*vhk_display_edid_fn)(void *arg, int error, const void *edid, size_t n);

/** vhk_display_get_info() - which scanouts there are, and their sizes as the front-end likes them; also after a change of the configuration */
int vhk_display_get_info(struct vhk_display *d, vhk_display_info_fn done, void *arg);
/** vhk_display_get_edid() - of one scanout that there is (QEMU says nothing about others) */
int vhk_display_get_edid(struct vhk_display *d, unsigned scanout, vhk_display_edid_fn done, void *arg);
/** vhk_display_set_scanout() - its size from now on, to be filled by vhk_display_update(); both 0: it is off */
int vhk_display_set_scanout(struct vhk_display *d, unsigned scanout, uint32_t width, uint32_t height);
/**
 * vhk_display_update() - new pixels, x8r8g8b8 in native byte order
 * @rect: inside of the scanout
 * @pixels: of @rect alone, copied; rows are @stride bytes apart
 */
int vhk_display_update(struct vhk_display *d, unsigned scanout, const struct vhk_display_rect *rect, const void *pixels, size_t stride);
/** vhk_display_set_dmabuf() - the scanout shows a dma-buf; -EOPNOTSUPP for a modifier without VHK_DISPLAY_DMABUF2 */
int vhk_display_set_dmabuf(struct vhk_display *d, unsigned scanout, const struct vhk_display_dmabuf *b);
/** vhk_display_update_dmabuf() - @rect of the dma-buf has changed; @done, which may be NULL: it was shown, and may be drawn on again */
int vhk_display_update_dmabuf(struct vhk_display *d, unsigned scanout, const struct vhk_display_rect *rect, vhk_done_fn done, void *arg);
/** vhk_display_move_cursor() - to where, and shown */
int vhk_display_move_cursor(struct vhk_display *d, unsigned scanout, uint32_t x, uint32_t y);
int vhk_display_hide_cursor(struct vhk_display *d, unsigned scanout, uint32_t x, uint32_t y);
/** vhk_display_set_cursor() - how it looks, and where it is */
int vhk_display_set_cursor(struct vhk_display *d, unsigned scanout, uint32_t x, uint32_t y, const struct vhk_display_cursor *c);

/* ---- the front-end's side ---- */

/**
 * struct vhk_frontend_display - who shows what the device draws; set @size
 * @features: VHK_DISPLAY_* that are served
 * @get_info: which scanouts there are; all of *@ret_info was zero. 0 or a negative errno (none are there)
 * @get_edid: of one of them: @ret_edid is filled, and its length is returned. Required with VHK_DISPLAY_EDID
 * @set_scanout: both 0: it is off
 * @update: @pixels of @rect, which is inside of the scanout (what the device drew beside it is left out) and not empty; rows without gaps
 * @set_dmabuf: duplicate @b->fd to keep it: nothing of it was looked at. Where the scanout is in the buffer was checked against what the
 *              device says of its size, not against the buffer
 * @update_dmabuf: the device may draw on it again when this returns. @rect may be outside
 * @set_cursor: how it looks; @move_cursor follows
 * @move_cursor: @visible or not; where may be outside
 * @closed: nothing is shown any more. @e: the device broke this protocol; the rest of the front-end goes on, without a display until the
 *          back-end is found again. NULL: the device has gone, or the front-end is closed
 *
 * Called from inside of front-end calls, on their thread; vhk_frontend_close() may be called there.
 * get_info is required; of the others those that are NULL are ignored.
 */
struct vhk_frontend_display {
        size_t size;
        uint32_t features;
        int (*get_info)(void *arg, struct vhk_display_info *ret_info);
        int (*get_edid)(void *arg, unsigned scanout, uint8_t ret_edid[VHK_DISPLAY_EDID_MAX]);
        void (*set_scanout)(void *arg, unsigned scanout, uint32_t width, uint32_t height);
        void (*update)(void *arg, unsigned scanout, const struct vhk_display_rect *rect, const uint32_t *pixels);
        void (*set_dmabuf)(void *arg, unsigned scanout, const struct vhk_display_dmabuf *b);
        void (*update_dmabuf)(void *arg, unsigned scanout, const struct vhk_display_rect *rect);
        void (*set_cursor)(void *arg, unsigned scanout, const struct vhk_display_cursor *c);
        void (*move_cursor)(void *arg, unsigned scanout, uint32_t x, uint32_t y, int visible);
        void (*closed)(void *arg, const struct vhk_error *e);
        void *arg;
};

#ifdef __cplusplus
}
#endif

#endif
