/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Everything of libvhostkit but <vhostkit/sys.h> and <vhostkit/vdpa.h>, which a library without its kernel side lacks.
 * (<vhostkit/daemon.h> and <vhostkit/blkdev.h> are libvhostkit-daemon's.)
 */
#ifndef VHOSTKIT_VHOSTKIT_H
#define VHOSTKIT_VHOSTKIT_H

#include <vhostkit/backend.h>
#include <vhostkit/blk.h>
#include <vhostkit/device.h>
#include <vhostkit/display.h>
#include <vhostkit/drvq.h>
#include <vhostkit/error.h>
#include <vhostkit/frontend.h>
#include <vhostkit/kernel.h>
#include <vhostkit/memory.h>
#include <vhostkit/migration.h>
#include <vhostkit/net.h>
#include <vhostkit/objects.h>
#include <vhostkit/queue.h>
#include <vhostkit/scsi.h>
#include <vhostkit/vsock.h>
#include <vhostkit/worker.h>

#endif
