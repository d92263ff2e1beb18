/* broker/protocols/amqp/proton.h: the one place that includes Qpid Proton.
 *
 * Proton is used as an engine only: bytes in, events out, no I/O of its own.
 * Development tools that need an AMQP client may include this as well. */
#ifndef BROKER_PROTOCOLS_AMQP_PROTON_H
#define BROKER_PROTOCOLS_AMQP_PROTON_H

#include <stdbool.h>
#include <stdint.h>

#include <proton/codec.h>
#include <proton/condition.h>
#include <proton/connection.h>
#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/disposition.h>
#include <proton/engine.h>
#include <proton/event.h>
#include <proton/link.h>
#include <proton/logger.h>
#include <proton/message.h>
#include <proton/object.h>
#include <proton/sasl.h>
#include <proton/sasl_plugin.h>
#include <proton/session.h>
#include <proton/terminus.h>
#include <proton/transport.h>

#endif
