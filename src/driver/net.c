/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A network card: found, negotiated, given memory; and what it says of itself. Source: virtio 1.3, 5.1.3 to 5.1.5.
 *
 * Who shows a configuration space is the whole device. A vhost-user back-end that does not (DPDK) leaves the control queue to its
 * front-end though it offers the bit, so there it is not taken; a front-end says how many pairs there are by starting their rings.
 */
#include "driver/net.h"

#include <endian.h>
#include <vhostkit/kernel.h>

#include "base/struct.h"

#define F VHK_BIT
#define OFFLOADS                                                                                                                \
        (VHK_NET_F_CSUM | VHK_NET_F_GUEST_CSUM | VHK_NET_F_GUEST_ECN | VHK_NET_F_HOST_ECN | VHK_NET_GUEST_GSO | VHK_NET_HOST_GSO)
#define CONFIG (F(VHK_NET_BIT_MTU) | F(VHK_NET_BIT_MAC) | F(VHK_NET_BIT_STATUS))
#define CONTROL (F(VHK_NET_BIT_CTRL_VQ) | F(VHK_NET_BIT_CTRL_RX) | F(VHK_NET_BIT_CTRL_MAC_ADDR))
#define WANTED                                                                                                                  \
        (CONFIG | CONTROL | F(VHK_NET_BIT_MQ) | F(VHK_NET_BIT_MRG_RXBUF) | F(VHK_DRVDEV_F_INDIRECT) | F(VHK_DRVDEV_F_EVENT_IDX) | \
         F(VHK_DRVDEV_F_VERSION_1) | F(VHK_DRVDEV_F_ACCESS_PLATFORM))
#define VIRTIO_ID 1u
#define LINK_UP 1u                      /* virtio 1.3, 5.1.4 */
#define MTU_LEAST 68u
#define MTU_USUAL 1500u
#define AROUND_MTU 18u                  /* addresses, type, and a VLAN tag */
#define BUFFER_USUAL 2048u
#define BUFFER_LEAST 128u
#define BUFFER_MOST 65664u
#define QUEUE_SIZE 256u
#define QUEUE_SIZE_LEAST 4u
#define ROOM (UINT64_C(4) << 20)        /* bytes of lent memory for the caller, to begin with */

/* ---- features ---- */

/* What a bit needs, any of them (virtio 1.3, 5.1.3.1). */
static const struct { uint64_t bit, any; } needs[] = {
        { VHK_NET_F_GUEST_TSO4, VHK_NET_F_GUEST_CSUM }, { VHK_NET_F_GUEST_TSO6, VHK_NET_F_GUEST_CSUM },
        { VHK_NET_F_GUEST_UFO, VHK_NET_F_GUEST_CSUM }, { VHK_NET_F_GUEST_USO4, VHK_NET_F_GUEST_CSUM },
        { VHK_NET_F_GUEST_USO6, VHK_NET_F_GUEST_CSUM }, { VHK_NET_F_GUEST_ECN, VHK_NET_F_GUEST_TSO4 | VHK_NET_F_GUEST_TSO6 },
        { VHK_NET_F_HOST_TSO4, VHK_NET_F_CSUM }, { VHK_NET_F_HOST_TSO6, VHK_NET_F_CSUM }, { VHK_NET_F_HOST_UFO, VHK_NET_F_CSUM },
        { VHK_NET_F_HOST_USO, VHK_NET_F_CSUM }, { VHK_NET_F_HOST_ECN, VHK_NET_F_HOST_TSO4 | VHK_NET_F_HOST_TSO6 },
        { F(VHK_NET_BIT_CTRL_RX), F(VHK_NET_BIT_CTRL_VQ) }, { F(VHK_NET_BIT_CTRL_MAC_ADDR), F(VHK_NET_BIT_CTRL_VQ) },
};

static uint64_t choose(const struct vhk_frontend_info *i, const struct vhk_net_options *o) {
        uint64_t features = i->features & (WANTED | (o->features_take & OFFLOADS)) & ~o->features_no_take;
        bool has_config = i->capabilities & VHK_CAP_CONFIG;

        if (!has_config)
                features &= ~(CONFIG | CONTROL);
        /* with a configuration space it is the control queue that sets the number of pairs, and MQ says where that is */
        if (has_config ? !(features & F(VHK_NET_BIT_CTRL_VQ)) : o->n_pairs <= 1)
                features &= ~F(VHK_NET_BIT_MQ);
        for (size_t k = 0; k < VHK_N(needs); k++)       /* none needs one that comes behind it */
                if (!(features & needs[k].any))
                        features &= ~needs[k].bit;
        return features;
}

static int negotiate(struct vhk_net *n, const struct vhk_net_options *o, struct vhk_error *ret_e) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        int k = vhk_frontend_get_info(n->d.f, &i);
        if (k < 0)
                return vhk_drvdev_story(&n->d, k, ret_e);
        uint64_t features = choose(&i, o);
        if (!(features & F(VHK_DRVDEV_F_VERSION_1)) && BYTE_ORDER != LITTLE_ENDIAN)
                return vhk_error_set(ret_e, -EOPNOTSUPP, "net.legacy", "the device does not offer VERSION_1: big-endian rings are not driven");
        return vhk_drvdev_negotiate(&n->d, features, ret_e);
}

/* ---- configuration space ---- */

static uint16_t word(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

/* What was negotiated alone is asked for: what is behind it need not be there. */
static int read_config(struct vhk_net *n, struct vhk_net_config *ret_c) {
        static const struct { uint8_t bit, end; } ends[] = {
                { VHK_NET_BIT_MAC, 6 }, { VHK_NET_BIT_STATUS, 8 }, { VHK_NET_BIT_MQ, 10 }, { VHK_NET_BIT_MTU, 12 },
        };
        struct vhk_frontend_info i = { .size = sizeof(i) };
        uint8_t raw[12] = { 0 };
        uint32_t end = 0;

        int k = vhk_frontend_get_info(n->d.f, &i);
        for (size_t j = 0; j < VHK_N(ends); j++)
                if (vhk_net_has(n, ends[j].bit))
                        end = ends[j].end;
        if (k == 0 && end && (i.capabilities & VHK_CAP_CONFIG))
                k = vhk_frontend_get_config(n->d.f, 0, raw, end);
        if (k < 0)
                return k;
        *ret_c = (struct vhk_net_config){ .status = LINK_UP };
        memcpy(ret_c->mac, raw, sizeof(ret_c->mac));
        if (vhk_net_has(n, VHK_NET_BIT_STATUS))
                ret_c->status = word(raw + 6);
        ret_c->n_pairs = vhk_net_has(n, VHK_NET_BIT_MQ) ? word(raw + 8) : 0;
        ret_c->mtu = vhk_net_has(n, VHK_NET_BIT_MTU) ? word(raw + 10) : 0;
        return 0;
}

/* Under the lock. Of a change only the link counts: addresses, MTU and pairs are of the time of opening. */
static int refresh(struct vhk_drvdev *d) {
        struct vhk_net *n = vhk_container_of(d, struct vhk_net, d);
        struct vhk_net_config c;

        if (!d->config_stale)
                return 0;
        d->config_stale = false;
        int k = read_config(n, &c);
        if (k < 0)
                return k;
        bool was_up = n->config.status & LINK_UP, is_up = c.status & LINK_UP;
        n->config.status = c.status;
        if (was_up != is_up && n->on_link)
                n->on_link(n->link_arg, is_up);
        return 0;
}

static unsigned n_device_pairs(const struct vhk_net *n) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        if (!vhk_net_has(n, VHK_NET_BIT_MQ) || vhk_frontend_get_info(n->d.f, &i) < 0)
                return 1;
        if (i.capabilities & VHK_CAP_CONFIG)
                return n->config.n_pairs;
        return i.n_queues / 2 ?: 1;
}

/* ---- sizes ---- */

static int derive(struct vhk_net *n, const struct vhk_net_options *o, struct vhk_error *ret_e) {
        const struct vhk_net_config *c = &n->config;
        bool merged = vhk_net_has(n, VHK_NET_BIT_MRG_RXBUF);
        uint32_t mtu = c->mtu ? c->mtu : MTU_USUAL;

        if (vhk_net_has(n, VHK_NET_BIT_MTU) && c->mtu < MTU_LEAST)
                return vhk_error_set(ret_e, -EPROTO, "net.mtu", "the device says that the MTU is %u", c->mtu);
        if (vhk_net_has(n, VHK_NET_BIT_CTRL_VQ) && vhk_net_has(n, VHK_NET_BIT_MQ) && !c->n_pairs)
                return vhk_error_set(ret_e, -EPROTO, "net.pairs", "the device says that it has no queues");
        n->header_size = merged || vhk_net_has(n, VHK_DRVDEV_F_VERSION_1) ? 12 : 10;
        uint32_t least = BUFFER_LEAST;
        if (!merged)
                least = n->header_size + (n->d.features & VHK_NET_GUEST_GSO ? VHK_NET_FRAME_MOST : mtu + AROUND_MTU);
        n->buffer_size = o->buffer_size ? o->buffer_size : VHK_MAX(least, BUFFER_USUAL);
        if (n->buffer_size < least || n->buffer_size > BUFFER_MOST)
                return vhk_error_set(ret_e, -EINVAL, "net.options", "receive buffers of %u bytes: %u to %u are needed", n->buffer_size, least,
                                     BUFFER_MOST);
        n->frame_most = merged ? (VHK_NET_FRAME_MOST + n->header_size + n->buffer_size - 1) / n->buffer_size : 1;
        n->copy_size = n->d.features & VHK_NET_HOST_GSO ? VHK_NET_FRAME_MOST : mtu + AROUND_MTU;
        unsigned has = n_device_pairs(n);
        if (n->n_pairs > has)
                return vhk_error_set(ret_e, -EINVAL, "net.pairs", "%u pairs of queues were asked for, the device has %u", n->n_pairs, has);
        return 0;
}

/* ---- queues ---- */

static struct vhk_net *net_of(struct vhk_drvdev *d) {
        return vhk_container_of(d, struct vhk_net, d);
}

static void stop_queues(struct vhk_drvdev *d) {
        struct vhk_net *n = net_of(d);

        vhk_net_control_done(n);
        for (unsigned i = 0; n->queues && i < n->n_pairs; i++)
                vhk_net_queue_done(&n->queues[i]);
        free(n->queues);
        n->queues = NULL;
}

static int start_queues(struct vhk_drvdev *d, uint16_t num) {
        struct vhk_net *n = net_of(d);
        int k = d->n_chunks ? 0 : vhk_drvdev_add_chunk(d, n->n_pairs * vhk_net_queue_bytes(n, num) + vhk_net_control_bytes(), ROOM);

        n->queues = calloc(n->n_pairs, sizeof(*n->queues));
        if (!n->queues)
                return -ENOMEM;
        for (unsigned i = 0; i < n->n_pairs && k == 0; i++)
                k = vhk_net_queue_init(&n->queues[i], n, i, num);
        /* behind all pairs that there could be (virtio 1.3, 5.1.2) */
        if (k == 0 && vhk_net_has(n, VHK_NET_BIT_CTRL_VQ))
                k = vhk_net_control_init(n, vhk_net_has(n, VHK_NET_BIT_MQ) ? 2u * n->config.n_pairs : 2);
        return k;
}

static int begin(struct vhk_net *n, const struct vhk_net_options *o) {
        int k = vhk_drvdev_set_status(&n->d, VHK_DRVDEV_S_DRIVER_OK);

        for (unsigned i = 0; i < n->n_pairs && k == 0; i++)
                k = vhk_net_queue_begin(&n->queues[i]);
        for (unsigned ring = 0; ring < 2 && o->has_backend_fd && k == 0; ring++)
                k = vhk_frontend_set_backend(n->d.f, ring, o->backend_fd);
        if (k == 0 && n->n_pairs > 1 && n->control)
                k = vhk_net_control_set_pairs(n, n->n_pairs);
        return k;
}

/* ---- life ---- */

static int prepare(struct vhk_drvdev *d, const void *options, struct vhk_frontend_options *fo, struct vhk_error *ret_e) {
        const struct vhk_net_options *o = options;
        struct vhk_net *n = net_of(d);

        pthread_mutex_init(&n->control_lock, NULL);
        n->n_pairs = o->n_pairs ? o->n_pairs : 1;
        n->polling = o->polling;
        n->on_link = o->on_link;
        n->link_arg = o->link_arg;
        fo->reconnect_ns = 0;
        return 0;
}

static int bring_up(struct vhk_drvdev *d, const void *options, struct vhk_error *ret_e) {
        const struct vhk_net_options *o = options;
        struct vhk_net *n = net_of(d);
        uint16_t wish = o->queue_size;

        if (wish && (!vhk_is_pow2(wish) || wish < QUEUE_SIZE_LEAST || wish > 32768))
                return vhk_error_set(ret_e, -EINVAL, "net.options", "a queue of %u entries: a power of two from %u to 32768 is needed", wish,
                                     QUEUE_SIZE_LEAST);
        if (o->features_take & ~OFFLOADS)
                return vhk_error_set(ret_e, -EINVAL, "net.options", "features 0x%llx are not among VHK_NET_F_*",
                                     (unsigned long long)(o->features_take & ~OFFLOADS));
        if (o->has_backend_fd && n->n_pairs > 1)
                return vhk_error_set(ret_e, -EINVAL, "net.options", "a vhost-net has one pair of queues");
        int k = negotiate(n, o, ret_e);
        if (k < 0)
                return k;
        k = read_config(n, &n->config);
        if (k < 0)
                return vhk_drvdev_story(d, k, ret_e);
        k = derive(n, o, ret_e);
        if (k < 0)
                return k;
        k = vhk_drvdev_start_rings(d, wish, QUEUE_SIZE, QUEUE_SIZE_LEAST, start_queues, stop_queues);
        if (k == 0)
                k = begin(n, o);
        return k < 0 ? vhk_drvdev_story(d, k, ret_e) : 0;
}

static void stop(struct vhk_drvdev *d) {
        net_of(d)->on_link = NULL;
        stop_queues(d);
        pthread_mutex_destroy(&net_of(d)->control_lock);
}

static const struct vhk_drvdev_kind kind = {
        .rule = "net.open", .what = "the network card", .options = "struct vhk_net_options", .virtio_id = VIRTIO_ID,
        .size = sizeof(struct vhk_net), .options_size = sizeof(struct vhk_net_options),
        .prepare = prepare, .bring_up = bring_up, .refresh = refresh, .stop = stop,
};

VHK_API int vhk_net_open(const char *spec, const struct vhk_net_options *o, struct vhk_net **ret_n, struct vhk_error *ret_e) {
        struct vhk_net_options own;
        struct vhk_drvdev *d;

        int k = vhk_drvdev_open(&kind, spec, o, &own, &d, ret_e);
        if (k == 0)
                *ret_n = net_of(d);
        return k;
}

VHK_API struct vhk_net *vhk_net_close(struct vhk_net *n) {
        return vhk_drvdev_close(n ? &n->d : NULL);
}

VHK_API int vhk_net_get_info(struct vhk_net *n, struct vhk_net_info *ret_i) {
        struct vhk_net_info i = { .size = sizeof(i) };

        vhk_drvdev_look_after(&n->d);
        int k = vhk_drvdev_lock(&n->d);
        if (k < 0)
                return k;
        i.features = n->d.features;
        i.has_mac = vhk_net_has(n, VHK_NET_BIT_MAC);
        memcpy(i.mac, n->config.mac, sizeof(i.mac));
        i.link_up = n->config.status & LINK_UP;
        i.mtu = n->config.mtu;
        i.n_pairs = (uint16_t)n_device_pairs(n);
        i.n_pairs_open = (uint16_t)n->n_pairs;
        i.header_size = (uint16_t)n->header_size;
        i.buffer_size = n->buffer_size;
        vhk_drvdev_unlock(&n->d);
        vhk_drvdev_leave(&n->d);
        return VHK_STRUCT_GIVE(ret_i, &i);
}

VHK_API struct vhk_frontend *vhk_net_get_frontend(struct vhk_net *n) {
        return n->d.f;
}

VHK_API void *vhk_net_alloc(struct vhk_net *n, size_t len) {
        return vhk_drvdev_alloc(&n->d, len);
}

VHK_API int vhk_net_get_queue(struct vhk_net *n, unsigned i, struct vhk_net_queue **ret_q) {
        if (i >= n->n_pairs)
                return -EINVAL;
        *ret_q = &n->queues[i];
        return 0;
}
