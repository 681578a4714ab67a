/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Everything of libvhostkit (not <vhostkit/daemon.h>, which is libvhostkit-daemon's). */
#ifndef VHOSTKIT_VHOSTKIT_H
#define VHOSTKIT_VHOSTKIT_H

#include <vhostkit/backend.h>
#include <vhostkit/blk.h>
#include <vhostkit/device.h>
#include <vhostkit/display.h>
#include <vhostkit/drvq.h>
#include <vhostkit/error.h>
#include <vhostkit/frontend.h>
#include <vhostkit/memory.h>
#include <vhostkit/net.h>
#include <vhostkit/queue.h>
#include <vhostkit/worker.h>

#endif
