"""RabbitMQ: quorum queues, which sync, over both protocols; and its defaults.

RABBITMQ_HOME may name another release's folder, the one with sbin/."""

import glob
import os
import subprocess
import time

import client
from peer import Failed, Peer, Unavailable, die_with_parent, free_port, \
    program, words

DECLARE_S = 120
ERLANG_VERSION = ('io:format("~s", [erlang:system_info(otp_release)]), halt().')


class Rabbitmq(Peer):
    key = "rabbitmq"
    title = "RabbitMQ, quorum queue, AMQP 0.9.1"
    protocol = "amqp091"
    user, password = "guest", "guest"
    warm_s = 4.0
    plugins = ""
    settings = ("quorum queue of one replica, delivery mode 2, publisher "
                "confirms; otherwise as it comes")

    def find(self):
        found = os.environ.get("RABBITMQ_HOME") or \
            ([""] + sorted(glob.glob(
                "/usr/lib/rabbitmq/lib/rabbitmq_server-*")))[-1]
        self.server = os.path.join(found, "sbin", "rabbitmq-server")
        if not os.access(self.server, os.X_OK):
            raise Unavailable("rabbitmq-server is not installed")
        self.epmd = program("epmd") or \
            (glob.glob("/usr/lib/erlang/erts-*/bin/epmd") + [None])[0]
        if not self.epmd:
            raise Unavailable("there is no epmd")
        self.version = "%s on Erlang %s" % (
            os.path.basename(found).rpartition("-")[2],
            words(["erl", "-noshell", "-eval", ERLANG_VERSION]))

    def configure(self, home):
        self.epmd_port = free_port()
        self.dist_port = free_port()
        with open(os.path.join(home, "rabbitmq.conf"), "w") as f:
            f.write("listeners.tcp.default = 127.0.0.1:%d\n" % self.port)
        with open(os.path.join(home, "plugins"), "w") as f:
            f.write("[%s].\n" % self.plugins)

    def environment(self):
        home = self.home
        return {
            "HOME": home, "LANG": "C.UTF-8",
            # The script becomes the broker, instead of its parent: then it
            # dies with us.
            "RUNNING_UNDER_SYSTEMD": "true",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "bench@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_MNESIA_BASE": os.path.join(home, "mnesia"),
            "RABBITMQ_LOG_BASE": os.path.join(home, "log"),
            "RABBITMQ_CONFIG_FILE": os.path.join(home, "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": os.path.join(home, "plugins"),
            "RABBITMQ_PID_FILE": os.path.join(home, "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def start_epmd(self):
        """In the foreground and ours: what Erlang starts by itself stays
        behind as a daemon."""
        if self.extra:
            return
        self.extra.append(subprocess.Popen(
            [self.epmd, "-port", str(self.epmd_port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, preexec_fn=die_with_parent))
        limit = time.monotonic() + 5
        while subprocess.run(
                [self.epmd, "-port", str(self.epmd_port), "-names"],
                capture_output=True).returncode:
            if time.monotonic() > limit:
                raise Failed("epmd did not start")
            time.sleep(0.01)

    def launch(self, **how):
        self.start_epmd()
        return super().launch(**how)

    def command(self):
        return [self.server], self.environment()


class RabbitmqAmqp10(Rabbitmq):
    key = "rabbitmq-amqp10"
    title = "RabbitMQ, quorum queue, AMQP 1.0"
    protocol = "amqp"
    plugins = "rabbitmq_amqp1_0"
    settings = "as rabbitmq, through its AMQP 1.0 plugin"

    def fans_out(self):
        return False  # an exchange's queues are bound by the other protocol

    def address(self, load, prefix):
        return "/amq/queue/" + prefix

    def declare(self, load, prefix):
        """Over AMQP 0.9.1, by a message to each queue that is taken out at
        once."""
        client.complain(*client.finish(client.start(client.command(
            self, load, prefix, "--count", str(load.queues),
            mode="both", protocol=Rabbitmq.protocol, address=prefix,
            connections=1, receivers=1, window=1000)),
            DECLARE_S))


class RabbitmqDefaults(Rabbitmq):
    key = "rabbitmq-default"
    title = "RabbitMQ, its defaults"
    column = "defaults"
    load_options = ("--classic",)
    settings = "durable classic queue, delivery mode 2, publisher confirms"
    note = "need not sync what is consumed at once"
