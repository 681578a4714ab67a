/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Management of the kernel's vDPA devices: which parents there are, what devices they made, and which bus driver has a device.
 * A device that vhost_vdpa has is opened with vhk_frontend_open(); one that virtio_vdpa has is a disk or an interface of this kernel.
 * The calls keep no state: any thread. Making, removing and binding need CAP_NET_ADMIN and root's sysfs.
 */
#ifndef VHOSTKIT_VDPA_H
#define VHOSTKIT_VDPA_H

#include <stddef.h>
#include <stdint.h>
#include <vhostkit/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct vhk_vdpa_mgmt - a management device: a parent that makes vDPA devices (a simulator, VDUSE, a function of a network card)
 * @size: sizeof(struct vhk_vdpa_mgmt) of the library; members behind it are not there
 * @bus: "pci", "auxiliary" ...; empty for parents that are on no bus
 * @name: of the parent on that bus
 * @device_ids: bit N: it makes devices of virtio id N
 * @features: virtio features that its devices can have; 0: it does not tell
 * @max_queues: most queues of a device; 0: it does not tell
 */
struct vhk_vdpa_mgmt {
        size_t size;
        char bus[32], name[64];
        uint64_t device_ids, features;
        uint32_t max_queues;
};

/**
 * struct vhk_vdpa_device - a vDPA device
 * @size: as above
 * @name: unique on this machine
 * @mgmt_bus, mgmt_name: the parent
 * @driver: the bus driver that has it, "vhost_vdpa", "virtio_vdpa"; empty: none
 * @virtio_id: virtio device id
 */
struct vhk_vdpa_device {
        size_t size;
        char name[256], mgmt_bus[32], mgmt_name[64], driver[32];
        uint32_t virtio_id, vendor_id, max_queues;
        uint16_t max_queue_size;
};

/** Called for each row of a list; 0 goes on, anything else ends the list, which returns it. May call anything of this header. */
typedef int (*vhk_vdpa_mgmt_fn)(void *arg, const struct vhk_vdpa_mgmt *m);
typedef int (*vhk_vdpa_device_fn)(void *arg, const struct vhk_vdpa_device *d);

/**
 * vhk_vdpa_list_mgmt() - all management devices
 *
 * Return: their number; -EOPNOTSUPP: this kernel has no vDPA, or its module is not loaded; -EAGAIN: they changed all the time
 * while they were listed; -EBADMSG: what the kernel said makes no sense.
 */
int vhk_vdpa_list_mgmt(vhk_vdpa_mgmt_fn each, void *arg, struct vhk_error *ret_e);
/** vhk_vdpa_list() - all vDPA devices; likewise */
int vhk_vdpa_list(vhk_vdpa_device_fn each, void *arg, struct vhk_error *ret_e);

/**
 * struct vhk_vdpa_add - the device that is wanted; what is 0 is the parent's choice
 * @size: sizeof(struct vhk_vdpa_add) of the caller
 * @name: of the new device
 * @mgmt_bus: NULL or empty for a parent on no bus
 * @mgmt_name: the parent
 * @has_mac, mac, mtu, max_queue_pairs: of network devices
 * @features: virtio features that it shall have, a part of the parent's (kernel 6.1)
 */
struct vhk_vdpa_add {
        size_t size;
        const char *name, *mgmt_bus, *mgmt_name;
        int has_mac;
        uint8_t mac[6];
        uint16_t mtu, max_queue_pairs;
        uint64_t features;
};

/**
 * vhk_vdpa_add() - make a device
 *
 * Return: 0; -EEXIST; -ENODEV no such parent; -EPERM; -EOPNOTSUPP the parent does not take one of these attributes, or there is
 * no vDPA; what else the kernel says. Its own words are in the story.
 */
int vhk_vdpa_add(const struct vhk_vdpa_add *a, struct vhk_error *ret_e);
/** vhk_vdpa_del() - remove a device; waits, and cannot be killed, until whoever has it open has closed it: never the caller itself. -ENODEV, -EPERM, -EINVAL (not made by a parent on request) */
int vhk_vdpa_del(const char *name, struct vhk_error *ret_e);

/**
 * vhk_vdpa_bind() - give a device to a bus driver, and keep it there (driver_override)
 * @driver: "vhost_vdpa" or "virtio_vdpa"; its module is loaded
 *
 * Takes it from the driver that has it, which waits until whoever has its node open has closed it. If @driver does not take it, the
 * former one gets it back. Return: 0, also if @driver has it already; -ENODEV no such device; -EOPNOTSUPP no such driver; -EACCES.
 */
int vhk_vdpa_bind(const char *name, const char *driver, struct vhk_error *ret_e);

/** vhk_vdpa_find_node() - "/dev/vhost-vdpa-N" of a device; -ENODEV no such device, -ENXIO vhost_vdpa does not have it, -ERANGE @n is too small */
int vhk_vdpa_find_node(const char *name, char *ret_path, size_t n, struct vhk_error *ret_e);

#ifdef __cplusplus
}
#endif

#endif
