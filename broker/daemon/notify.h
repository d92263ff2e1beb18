/* broker/daemon/notify.h: telling systemd (sd_notify(3)), by hand: one
 * datagram to $NOTIFY_SOCKET.  Without that variable, nothing. */
#ifndef BROKER_DAEMON_NOTIFY_H
#define BROKER_DAEMON_NOTIFY_H

#include "base/base.h"

void notify_send(const char *text);
/* How often WATCHDOG=1 is to be sent, in ms: half of what $WATCHDOG_USEC
 * allows; 0: never. */
uint64_t notify_watchdog_ms(void);

#endif
