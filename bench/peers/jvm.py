"""ActiveMQ Artemis and ActiveMQ Classic, out of their libraries.

Maven fetches them once, at the exact versions of artemis/pom.xml and
activemq/pom.xml, into build/peers; without it these peers are not
available."""

import glob
import os
import shutil
import subprocess
import time
import zipfile

from peer import Peer, Unavailable, words

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
FETCHED = os.path.join(BUILD, "peers", "fetched")
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
FETCH_S = 240
QUIET = """<Configuration status="ERROR"><Appenders><Console name="out">
<PatternLayout pattern="%d %p %c{1}: %m%n"/></Console></Appenders>
<Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""


def fetch(name):
    """The folder of jars that NAME/pom.xml wants.  An incomplete one must not
    be taken for it: Maven says in the exit code only that it failed."""
    jars = os.path.join(FETCHED, name)
    if os.path.isdir(jars):
        return jars
    if not shutil.which("mvn"):
        raise Unavailable("maven is not installed")
    partial = jars + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", os.path.join(HERE, name, "pom.xml"), COPY,
             "-DoutputDirectory=" + partial, "-DincludeScope=runtime"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=FETCH_S)
    except subprocess.TimeoutExpired:
        raise Unavailable("maven did not fetch it in %d s" % FETCH_S) from None
    if done.returncode:
        why = [line for line in done.stdout.splitlines() if "ERROR" in line]
        raise Unavailable("maven: " + (why or ["failed"])[0][:200])
    os.rename(partial, jars)
    return jars


def synced_write_ns(path, writes=250, size=4096):
    """The mean time to write a block and sync it, in a file that was written
    before."""
    with open(path, "wb") as f:
        f.write(bytes(writes * size))
        os.fsync(f.fileno())
    file = os.open(path, os.O_WRONLY)
    begun = time.monotonic_ns()
    for i in range(writes):
        os.pwrite(file, bytes(size), i * size)
        os.fdatasync(file)
    took = time.monotonic_ns() - begun
    os.close(file)
    os.unlink(path)
    return took // writes


class Jvm(Peer):
    """Compiled code needs a while of load before it is what it will be."""

    folder = main = broker_jar = ""
    arguments = ()
    warm_s = 4.0
    heap = ("-Xms512m", "-Xmx2g")

    def find(self):
        if not shutil.which("java"):
            raise Unavailable("java is not installed")
        self.jars = fetch(self.folder)
        jar = glob.glob(os.path.join(self.jars, self.broker_jar + "-[0-9]*.jar"))
        self.version = "%s on %s" % (
            os.path.basename(jar[0])[len(self.broker_jar) + 1:-4],
            words(["java", "-version"]).splitlines()[0].replace('"', ""))

    def java(self, *options):
        log4j = os.path.join(self.home, "log4j2.xml")
        with open(log4j, "w") as f:
            f.write(QUIET)
        return ["java", *self.heap, "-Dlog4j2.configurationFile=" + log4j,
                *options, "-cp", os.path.join(self.jars, "*"), self.main]


ARTEMIS = """<configuration xmlns="urn:activemq">
<core xmlns="urn:activemq:core">
<name>bench</name>
<persistence-enabled>true</persistence-enabled>
<security-enabled>false</security-enabled>
<journal-type>ASYNCIO</journal-type>
<journal-datasync>true</journal-datasync>
<journal-sync-transactional>true</journal-sync-transactional>
<journal-sync-non-transactional>true</journal-sync-non-transactional>
<journal-min-files>2</journal-min-files>
<journal-pool-files>10</journal-pool-files>
<journal-file-size>10M</journal-file-size>
<journal-buffer-timeout>{timeout}</journal-buffer-timeout>
<journal-max-io>4096</journal-max-io>
<max-disk-usage>98</max-disk-usage>
<bindings-directory>{home}/bindings</bindings-directory>
<journal-directory>{home}/journal</journal-directory>
<large-messages-directory>{home}/large</large-messages-directory>
<paging-directory>{home}/paging</paging-directory>
<acceptors><acceptor name="amqp">tcp://127.0.0.1:{port}?protocols=AMQP;useEpoll=true;amqpCredits=1000;amqpLowCredits=300</acceptor></acceptors>
<addresses><address name="fan"><multicast>
{fan}</multicast></address></addresses>
<address-settings><address-setting match="#">
<default-address-routing-type>ANYCAST</default-address-routing-type>
<default-queue-routing-type>ANYCAST</default-queue-routing-type>
<max-size-bytes>-1</max-size-bytes>
<max-read-page-bytes>20M</max-read-page-bytes>
<address-full-policy>PAGE</address-full-policy>
<auto-create-queues>true</auto-create-queues>
<auto-create-addresses>true</auto-create-addresses>
<auto-delete-queues>false</auto-delete-queues>
<auto-delete-addresses>false</auto-delete-addresses>
</address-setting></address-settings>
</core></configuration>
"""


class Artemis(Jvm):
    key = "artemis"
    title = "ActiveMQ Artemis"
    protocol = "amqp"
    folder = "artemis"
    broker_jar = "artemis-server"
    main = "org.apache.activemq.artemis.core.server.embedded.Main"
    settings = ("AMQP 1.0; journal ASYNCIO (libaio, O_DIRECT), journal-datasync "
                "and both journal-sync settings on; buffer timeout as its "
                "installer would measure it on this disk; heap 512 MiB to 2 GiB; "
                "its own defaults sync as well")

    # The mean time of a synced write; `artemis create` measures the same.
    buffer_timeout_ns = 0

    def find(self):
        super().find()
        if not glob.glob("/usr/lib/*/libaio.so.1*") + \
                glob.glob("/lib/*/libaio.so.1*"):
            raise Unavailable("libaio is not installed: no ASYNCIO journal")
        os.makedirs(FETCHED, exist_ok=True)
        Artemis.buffer_timeout_ns = synced_write_ns(
            os.path.join(FETCHED, "sync-time"))

    def configure(self, home):
        os.makedirs(os.path.join(home, "native"))
        for jar in glob.glob(os.path.join(self.jars, "*artemis-native*.jar")):
            with zipfile.ZipFile(jar) as archive:
                name = "libartemis-native-64.so"
                with open(os.path.join(home, "native", name), "wb") as f:
                    f.write(archive.read("lib/linux-x86_64/" + name))
        os.makedirs(os.path.join(home, "etc"))
        with open(os.path.join(home, "etc", "broker.xml"), "w") as f:
            f.write(ARTEMIS.format(home=home, port=self.port,
                                   timeout=self.buffer_timeout_ns,
                                   fan="".join('<queue name="fan.%d"/>\n' % i
                                               for i in range(10))))

    def address(self, load, prefix):
        return "fan" if load.fanout else prefix

    def command(self):
        return self.java("-XX:+UseParallelGC", "-Djava.library.path=" +
                         os.path.join(self.home, "native")) + [self.home], {}


ACTIVEMQ = """<beans xmlns="http://www.springframework.org/schema/beans"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://www.springframework.org/schema/beans
 http://www.springframework.org/schema/beans/spring-beans.xsd
 http://activemq.apache.org/schema/core
 http://activemq.apache.org/schema/core/activemq-core.xsd">
<broker xmlns="http://activemq.apache.org/schema/core" brokerName="bench"
 dataDirectory="{home}/data" useJmx="false" schedulePeriodForDestinationPurge="0"
 useShutdownHook="false">
<destinationPolicy><policyMap><policyEntries>
<policyEntry queue=">" producerFlowControl="true"/>
</policyEntries></policyMap></destinationPolicy>
<persistenceAdapter><kahaDB directory="{home}/data/kahadb"
 enableJournalDiskSyncs="true" journalDiskSyncStrategy="always"
 concurrentStoreAndDispatchQueues="{dispatch}"/></persistenceAdapter>
<systemUsage><systemUsage>
<memoryUsage><memoryUsage percentOfJvmHeap="70"/></memoryUsage>
<storeUsage><storeUsage limit="40 gb"/></storeUsage>
<tempUsage><tempUsage limit="1 gb"/></tempUsage>
</systemUsage></systemUsage>
<transportConnectors><transportConnector name="it"
 uri="{uri}://127.0.0.1:{port}?maximumConnections=1000&amp;wireFormat.maxFrameSize=104857600"/>
</transportConnectors>
</broker></beans>
"""


class Activemq(Jvm):
    key = "activemq"
    title = "ActiveMQ Classic"
    protocol = "amqp"
    folder = "activemq"
    broker_jar = "activemq-broker"
    main = "org.apache.activemq.console.command.ShellCommand"
    uri = "amqp"  # its default; amqp+nio of 6.3.1 fails at 1 MiB
    heap = ("-Xms1g", "-Xmx2g")
    settings = ("AMQP 1.0; KahaDB, journalDiskSyncStrategy=always, "
                "concurrentStoreAndDispatchQueues=false: every confirmed message "
                "is written, and connections share a sync; heap 1 to 2 GiB")
    dispatch = "false"

    def configure(self, home):
        os.makedirs(os.path.join(home, "data"))
        with open(os.path.join(home, "activemq.xml"), "w") as f:
            f.write(ACTIVEMQ.format(home=home, port=self.port, uri=self.uri,
                                    dispatch=self.dispatch))

    def fans_out(self):
        return self.protocol == "stomp"  # its queues have names of their own

    def command(self):
        return self.java(
            "-Dactivemq.home=" + self.home, "-Dactivemq.base=" + self.home,
            "-Djava.io.tmpdir=" + self.home) + [
                "start", "xbean:file:" + os.path.join(self.home,
                                                      "activemq.xml")], {}


class ActivemqStomp(Activemq):
    key = "activemq-stomp"
    title = "ActiveMQ Classic, STOMP"
    protocol = "stomp"
    uri = "stomp"
    settings = "as activemq, over STOMP: persistent:true and a receipt each"


class ActivemqDefaults(Activemq):
    key = "activemq-default"
    title = "ActiveMQ Classic, its defaults"
    column = "defaults"
    dispatch = "true"
    settings = ("AMQP 1.0; KahaDB as it comes: journalDiskSyncStrategy=always, "
                "concurrentStoreAndDispatchQueues=true")
    note = ("a message that is consumed before it was written is confirmed "
            "without being written")
