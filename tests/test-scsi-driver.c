/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The SCSI driver against a host of this process: command N is answered as row N says, with nonsense too. tests/kernel/test-scsi.c
 * has an honest one, the kernel's.
 */
#include <endian.h>
#include <poll.h>

#include <vhostkit/scsi.h>

#include "base/base.h"
#include "pair.h"

static const struct row {
        int error;                      /* what the driver makes of it */
        bool silent;                    /* the answer is not written */
        uint8_t response, status;
        uint32_t sense_len, residual, in;       /* in: bytes of data that come */
} rows[] = {
        { .in = 512 }, { .in = 500, .residual = 12 }, { -EIO, .status = 2, .sense_len = 18 }, { -EOVERFLOW, .response = 1 }, { -ECANCELED, .response = 2 },
        { -ENODEV, .response = 3 }, { -ECANCELED, .response = 4 }, { -EBUSY, .response = 5 }, { -EREMOTEIO, .response = 6 }, { -EREMOTEIO, .response = 9 },
        /* nonsense */
        { -EPROTO, .silent = true }, { -EPROTO, .response = 10 }, { -EPROTO, .sense_len = 97, .status = 2 }, { -EPROTO, .residual = 513 },
        { -EPROTO, .sense_len = UINT32_MAX, .residual = UINT32_MAX },
};

static unsigned n_wrong;                /* atomic: requests that are not as they should be */
static unsigned n_answered;             /* atomic: results that the driver can see */
static struct vhk_req *held[64];        /* the device's thread alone */
static unsigned n_held;
static bool hold;                       /* set before the device runs */

static void answer(struct vhk_queue *q, struct vhk_req *r) {
        struct { uint32_t sense_len, residual; uint16_t qualifier; uint8_t status, response, sense[96]; } a = { 0 };
        uint8_t request[51], data[512];

        vhk_req_read(r, 0, request, sizeof(request));
        const struct row *row = &rows[request[19] % VHK_N(rows)];
        bool good = r->out_len >= 51 && r->in_len >= sizeof(a) && request[0] == 1 && request[1] == 7 && request[2] == 0x40 && request[3] == 9;
        if (r->out_len > 51) {          /* data of the command: all like its second byte */
                vhk_req_read(r, 51, data, 512);
                good &= data[0] == request[20] && data[511] == request[20];
        }
        __atomic_fetch_add(&n_wrong, !good, __ATOMIC_RELAXED);
        a.sense_len = htole32(row->sense_len);
        a.residual = htole32(row->residual);
        a.status = row->status;
        a.response = row->response;
        a.sense[2] = 5;
        memset(data, 0x5a, sizeof(data));
        if (!row->silent)
                vhk_req_write(r, 0, &a, sizeof(a));
        if (r->in_len > sizeof(a))
                vhk_req_write(r, sizeof(a), data, row->in);
        vhk_queue_push(q, r, 0);        /* as vhost-scsi does */
}

static void device_run(void *arg, struct vhk_queue *q) {
        struct vhk_req *r;
        unsigned n = 0;

        while (vhk_queue_get_index(q) == 2 && vhk_queue_pop(q, &r, 1) == 1) {
                if (hold && n_held < 63)
                        held[n_held++] = r;
                else {
                        answer(q, r);
                        n++;
                }
        }
        while (hold && n_held == 63)                    /* the last comes first */
                for (; n_held; n++)
                        answer(q, held[--n_held]);
        vhk_queue_flush(q);
        __atomic_fetch_add(&n_answered, n, __ATOMIC_RELEASE);
}

static const struct vhk_device_ops ops = {
        .size = sizeof(ops), .virtio_id = 8, .n_queues = 3, .queue_size_max = 256, .threads = VHK_THREADS_SINGLE, .queue_run = device_run,
};

static struct pair ends;
static struct vhk_scsi *s;

static void begin(uint16_t queue_size) {
        struct vhk_scsi_options o = { .size = sizeof(o), .queue_size = queue_size };
        struct vhk_error e;

        n_wrong = n_answered = n_held = 0;
        CHECK_MSG(pair_open(&ends, &(struct pair_options){ .ops = &ops }) == 0, "%s", ends.error.text);
        ends.f = vhk_frontend_close(ends.f);    /* the driver has one of its own */
        o.wwpn = "naa.1";
        CHECK_EQ(vhk_scsi_open(ends.front, &o, &s, &e), -EINVAL);       /* this device has its target */
        o.wwpn = NULL;
        CHECK_MSG(vhk_scsi_open(ends.front, &o, &s, &e) == 0, "%s", e.text);
}

static void end(void) {
        s = vhk_scsi_close(s);
        pair_close(&ends);
        CHECK_EQ(n_wrong, 0);
        hold = false;
}

static struct vhk_scsi_command command(const uint8_t *cdb) {
        return (struct vhk_scsi_command){ .size = sizeof(struct vhk_scsi_command), .target = 7, .lun = 9, .cdb = cdb, .cdb_len = 6 };
}

TEST(every_answer_is_told_as_one_error) {
        struct vhk_scsi_result r;

        begin(0);
        uint8_t *data = vhk_scsi_alloc(s, 1024);
        for (unsigned i = 0; i < VHK_N(rows); i++) {
                uint8_t cdb[6] = { (uint8_t)i, 0x77 };
                struct vhk_scsi_command c = command(cdb);
                struct iovec in[] = { { data, 200 }, { data + 200, 312 } };
                memset(data, 0, 1024);
                c.in = in;
                c.n_in = 2;
                int k = vhk_scsi_execute(s, &c, &r);
                CHECK_MSG(k == rows[i].error && r.error == k, "row %u: %d, error %d", i, k, r.error);
                CHECK(r.sense_len <= VHK_SCSI_SENSE);
                CHECK_EQ(data[511], rows[i].in == 512 ? 0x5a : 0);
                CHECK_EQ(data[512], 0);
                if (rows[i].error == -EIO)
                        CHECK(r.status == 2 && r.sense_len == 18 && r.sense[2] == 5);
                if (!rows[i].error)
                        CHECK_EQ(r.residual, rows[i].residual);
        }
        end();
}

TEST(data_goes_out) {
        struct vhk_scsi_result r;
        uint8_t cdb[6] = { 0, 0x33 };
        struct vhk_scsi_command c = command(cdb);

        begin(1);                               /* one at a time */
        uint8_t *data = vhk_scsi_alloc(s, 512);
        struct iovec out = { data, 512 };
        memset(data, 0x33, 512);
        c.out = &out;
        c.n_out = 1;
        for (int i = 0; i < 100; i++)
                CHECK_OK(vhk_scsi_execute(s, &c, &r));
        CHECK_OK(vhk_scsi_submit(s, &c, data));
        CHECK_EQ(vhk_scsi_submit(s, &c, data), -EAGAIN);
        CHECK_EQ(vhk_scsi_execute(s, &c, &r), -EBUSY);
        end();
}

TEST(commands_end_in_any_order) {
        uint8_t cdb[6] = { 0 };
        struct vhk_scsi_command c = command(cdb);
        struct vhk_scsi_result r[10];
        struct pollfd p;
        bool seen[63] = { false };
        unsigned n = 0;

        hold = true;
        begin(64);
        for (uintptr_t i = 0; i < 63; i++)
                CHECK_OK(vhk_scsi_submit(s, &c, (void *)i));
        p = (struct pollfd){ .fd = vhk_scsi_get_fd(s), .events = POLLIN };
        while (n < 63) {
                int k = vhk_scsi_reap(s, r, 10);
                CHECK_OK(k);
                for (int i = 0; i < k; i++) {
                        CHECK(!seen[(uintptr_t)r[i].cookie]);
                        seen[(uintptr_t)r[i].cookie] = true;
                }
                n += (unsigned)k;
                if (!k)
                        CHECK(poll(&p, 1, 10000) > 0);
        }
        end();
}

TEST(finished_commands_are_reaped_before_the_end_is_reported) {
        uint8_t cdb[6] = { 0 };
        struct vhk_scsi_command c = command(cdb);
        struct vhk_scsi_result r;

        begin(0);
        struct pollfd front = { .fd = vhk_frontend_get_fd(vhk_scsi_get_frontend(s)), .events = POLLIN };
        struct pollfd p = { .fd = vhk_scsi_get_fd(s), .events = POLLIN };
        for (uintptr_t i = 0; i < 2; i++)
                CHECK_OK(vhk_scsi_submit(s, &c, (void *)i));
        for (int i = 0; i < 20000 && __atomic_load_n(&n_answered, __ATOMIC_ACQUIRE) < 2; i++)
                usleep(1000);
        CHECK_OK(vhk_backend_stop(ends.b, VHK_STOP_DRAIN, 0));
        CHECK_EQ(poll(&front, 1, 20000), 1);
        for (uintptr_t i = 0; i < 2; i++) {
                CHECK_EQ(vhk_scsi_reap(s, &r, 1), 1);
                CHECK_EQ((uintptr_t)r.cookie, i);
                CHECK_EQ(r.error, 0);
                CHECK_EQ(poll(&p, 1, 0), 1);            /* there is more: the end at least */
        }
        CHECK_EQ(vhk_scsi_reap(s, &r, 1), -EPIPE);
        CHECK_EQ(vhk_scsi_submit(s, &c, NULL), -EPIPE);
        end();
}

TEST(wrong_use) {
        uint8_t cdb[40] = { 0 }, elsewhere[512];
        struct iovec many[VHK_SCSI_SEGMENTS + 1];
        struct vhk_scsi_command c;
        struct vhk_scsi_result r;
        struct vhk_error e;

        CHECK_EQ(vhk_scsi_open("/nonexistent", NULL, &s, &e), -ENOENT);
        CHECK_EQ(vhk_scsi_open("/nonexistent", &(struct vhk_scsi_options){ .size = 8 }, &s, &e), -EINVAL);
        CHECK_EQ(vhk_scsi_open("/nonexistent", &(struct vhk_scsi_options){ .size = sizeof(struct vhk_scsi_options), .queue_size = 3 }, &s, &e), -EINVAL);
        begin(0);
        uint8_t *data = vhk_scsi_alloc(s, 4096);
        for (unsigned i = 0; i <= VHK_SCSI_SEGMENTS; i++)
                many[i] = (struct iovec){ data + i, 1 };
        c = command(cdb);
        c.cdb_len = 33;
        CHECK_EQ(vhk_scsi_submit(s, &c, NULL), -EINVAL);
        c = command(cdb);
        c.lun = 16384;
        CHECK_EQ(vhk_scsi_submit(s, &c, NULL), -EINVAL);
        c = command(cdb);
        c.in = many;
        c.n_in = VHK_SCSI_SEGMENTS + 1;
        CHECK_EQ(vhk_scsi_submit(s, &c, NULL), -EINVAL);
        c.n_in = VHK_SCSI_SEGMENTS;
        CHECK_OK(vhk_scsi_execute(s, &c, &r));
        c = command(cdb);
        c.in = &(struct iovec){ elsewhere, 512 };
        c.n_in = 1;
        CHECK_EQ(vhk_scsi_submit(s, &c, NULL), -EFAULT);
        CHECK(!vhk_scsi_close(NULL));
        end();
}
