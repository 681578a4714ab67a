/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The file that a VDUSE device leaves to a successor: what the device was made with, whether it was running, and for each ring
 * which requests are in flight (ring/inflight.h). Control worker.
 *
 * The kernel knows neither of these, nor how far a ring was worked off. The file may have been written by anybody, or be of
 * another device: nothing in it is used before it was compared with the device at hand, and what it says of a ring is
 * checked by the ring. One page of words about the device, then the rings' records. Native byte order: it never leaves this machine.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "backend/vduse.h"
#include "mem/mapping.h"

#define RUN_DIR "/run/vhostkit"
#define RINGS_AT 4096u
#define VERSION 1u

struct header {
        char magic[8];
        uint32_t version, running;
        uint64_t features;
        uint32_t device_id, n_rings, n_entries, config_len;
        char name[256];
        uint8_t config[VHK_MAX_CONFIG];
};
static_assert(sizeof(struct header) <= RINGS_AT, "one page");

static const char magic[8] = "vhkvduse";

uint64_t vhk_vduse_record_rings(void) {
        return RINGS_AT;
}

static uint64_t record_bytes(const struct vhk_vduse_identity *id, unsigned n_entries) {
        return RINGS_AT + id->n_rings * vhk_inflight_split_bytes(n_entries);
}

static struct header *header_of(const struct vhk_vduse_record *r) {
        return (struct header *)r->mapping->host;
}

static int refuse(const struct vhk_vduse_record *r, struct vhk_error *ret_e, int code, const char *what) {
        return vhk_error_set(ret_e, code, "vduse.record", "%.120s: %s", r->path, what);
}

static int set_path(struct vhk_vduse_record *r, const char *path, const char *name, struct vhk_error *ret_e) {
        int k = path ? asprintf(&r->path, "%s", path) : asprintf(&r->path, RUN_DIR "/vduse-%s.inflight", name);

        if (k >= 0)
                return 0;
        r->path = NULL;
        return vhk_error_set(ret_e, -ENOMEM, "vduse.record", "no memory for the record's path");
}

/* ---- a new one ---- */

static void fill(struct vhk_vduse_record *r, const struct vhk_vduse_identity *id) {
        struct header *h = header_of(r);

        *h = (struct header){
                .version = VERSION, .features = id->features, .device_id = id->device_id, .n_rings = id->n_rings, .n_entries = id->n_entries,
                .config_len = id->config_len,
        };
        memcpy(h->name, id->name, sizeof(h->name));
        memcpy(h->config, id->config, sizeof(h->config));
        __atomic_thread_fence(__ATOMIC_RELEASE);        /* a file that is half made has no magic */
        memcpy(h->magic, magic, sizeof(magic));
}

int vhk_vduse_record_make(struct vhk_vduse_record *r, const char *path, const struct vhk_vduse_identity *id, struct vhk_error *ret_e) {
        int k = set_path(r, path, id->name, ret_e);

        if (k < 0)
                return k;
        if (!path && mkdir(RUN_DIR, 0755) < 0 && errno != EEXIST)
                return refuse(r, ret_e, vhk_errno(), strerror(errno));
        if (unlink(r->path) < 0 && errno != ENOENT)     /* of a device that has gone: ours was just made */
                return refuse(r, ret_e, vhk_errno(), strerror(errno));
        VHK_AUTOCLOSE int fd = open(r->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return refuse(r, ret_e, vhk_errno(), strerror(errno));
        r->n_entries = (uint16_t)id->n_entries;
        k = -posix_fallocate(fd, 0, (off_t)record_bytes(id, id->n_entries));    /* a file system that is full says so now */
        if (k < 0)
                return refuse(r, ret_e, k, strerror(-k));
        k = vhk_area_map(fd, 0, record_bytes(id, id->n_entries), &r->mapping, ret_e);
        if (k >= 0)
                fill(r, id);
        return k;
}

/* ---- a predecessor's ---- */

static int check_file(const struct vhk_vduse_record *r, int fd, const struct vhk_vduse_identity *id, uint64_t *ret_bytes, struct vhk_error *ret_e) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return refuse(r, ret_e, vhk_errno(), strerror(errno));
        if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
                return refuse(r, ret_e, -EPROTO, "not a plain file of one name");
        if (st.st_uid != geteuid() || (st.st_mode & 022))
                return refuse(r, ret_e, -EPROTO, "others may have written to it");
        if (st.st_size < RINGS_AT || (uint64_t)st.st_size > record_bytes(id, VHK_QUEUE_MAX_SIZE))
                return refuse(r, ret_e, -EEXIST, "of a device with other virtqueues");
        *ret_bytes = (uint64_t)st.st_size;
        return 0;
}

static int compare(struct vhk_vduse_record *r, const struct vhk_vduse_identity *id, struct vhk_error *ret_e) {
        struct header h = *header_of(r);        /* once */
        char text[120];

        if (memcmp(h.magic, magic, sizeof(magic)) || h.version != VERSION)
                return refuse(r, ret_e, -EPROTO, "no record of a VDUSE device");
        if (memcmp(h.name, id->name, sizeof(h.name)) || h.device_id != id->device_id)
                return refuse(r, ret_e, -EEXIST, "of another device");
        /* larger rings may run that are not served now; a larger ring than the record has parts for
         * runs without one */
        if (h.n_rings != id->n_rings || h.n_entries < 1 || h.n_entries > id->n_entries || r->mapping->len != record_bytes(id, h.n_entries))
                return refuse(r, ret_e, -EEXIST, "of a device with other virtqueues");
        if (h.features != id->features) {
                snprintf(text, sizeof(text), "the device was made with features 0x%llx, now they are 0x%llx", (unsigned long long)h.features,
                         (unsigned long long)id->features);
                return refuse(r, ret_e, -EEXIST, text);
        }
        if (h.config_len != id->config_len)
                return refuse(r, ret_e, -EEXIST, "the device was made with a configuration of another size");
        for (uint32_t i = 0; i < id->config_len; i++)
                if (h.config[i] != id->config[i]) {
                        snprintf(text, sizeof(text), "the device was made with another configuration (byte %u was 0x%02x, now it is 0x%02x)", i,
                                 h.config[i], id->config[i]);
                        return refuse(r, ret_e, -EEXIST, text);
                }
        r->n_entries = (uint16_t)h.n_entries;
        return 0;
}

int vhk_vduse_record_take(struct vhk_vduse_record *r, const char *path, const struct vhk_vduse_identity *id, struct vhk_error *ret_e) {
        int k = set_path(r, path, id->name, ret_e);

        if (k < 0)
                return k;
        VHK_AUTOCLOSE int fd = open(r->path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return refuse(r, ret_e, vhk_errno(), strerror(errno));
        uint64_t bytes = 0;
        k = check_file(r, fd, id, &bytes, ret_e);
        if (k >= 0)
                k = vhk_area_map(fd, 0, bytes, &r->mapping, ret_e);
        return k < 0 ? k : compare(r, id, ret_e);
}

void vhk_vduse_record_close(struct vhk_vduse_record *r, bool remove) {
        if (remove && r->mapping)
                unlink(r->path);
        r->mapping = vhk_mapping_unref(r->mapping);
        free(VHK_STEAL(r->path));
}

/* ---- words about the device ---- */

bool vhk_vduse_record_is_running(const struct vhk_vduse_record *r) {
        return vhk_load_acquire(&header_of(r)->running) == 1;
}

/* Pairs, as all stores here, with a successor's life, after our end. */
void vhk_vduse_record_set_running(struct vhk_vduse_record *r, bool on) {
        vhk_store_release(&header_of(r)->running, (uint32_t)on);
}

void vhk_vduse_record_set_config(struct vhk_vduse_record *r, const uint8_t *config, uint32_t n) {
        memcpy(header_of(r)->config, config, n);
}

void vhk_vduse_record_wipe(struct vhk_vduse_record *r) {
        memset(r->mapping->host + RINGS_AT, 0, r->mapping->len - RINGS_AT);
}
