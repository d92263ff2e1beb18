"""What is measured: the loads, and how many messages of what."""


class Load:
    """A load of so many seconds; the fields are those of the generator."""

    def __init__(self, key, title, mode="publish", connections=1, receivers=0,
                 queues=1, fanout=0, window=1000, size=1024, rate=0,
                 defaults=False):
        self.key = key
        self.title = title
        self.mode = mode
        self.connections = connections
        self.receivers = receivers
        self.queues = queues
        self.fanout = fanout
        self.window = window
        self.size = size
        self.rate = rate          # messages a second in all; 0: closed loop
        self.defaults = defaults  # is it run with the peers' defaults too?

    def words(self):
        """In the report."""
        said = "%d connection%s" % (self.connections,
                                    "" if self.connections == 1 else "s")
        if self.mode == "both":
            said = "%d sending, %d receiving" % (self.connections,
                                                 self.receivers)
        said += ", {:,}/s".format(self.rate) if self.rate else \
            ", window %d" % self.window
        return said + ", " + size_words(self.size)


def size_words(size):
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if size >= unit and size % unit == 0:
            return "%d %s" % (size // unit, name)
    return "%d B" % size


LOADS = [
    Load("window1", "One message at a time", window=1, defaults=True),
    Load("one", "Publishing, one connection"),
    Load("eight", "Publishing, eight connections", connections=8,
         defaults=True),
    Load("small1", "Small messages, one connection", size=100),
    Load("small8", "Small messages, eight connections", connections=8,
         size=100),
    Load("medium8", "16 KiB messages", connections=8, window=100, size=16384),
    Load("large8", "1 MiB messages", connections=8, window=4, size=2**20),
    Load("through", "End to end on four queues", mode="both",
         connections=4, receivers=4, queues=4, defaults=True),
    Load("light", "End to end on four queues, window 20", mode="both",
         connections=4, receivers=4, queues=4, window=20),
    Load("paced", "End to end on four queues, open loop", mode="both",
         connections=4, receivers=4, queues=4, rate=2000),
    Load("fanout", "One address to ten queues", mode="both", connections=4,
         receivers=10, fanout=10, window=100),
    Load("queues", "A thousand queues", connections=8, queues=1000),
]
# Steps that are not loads: key -> title.
SCENES = {
    "idle": "Starting, and idle memory",
    "backlog": "A backlog, SIGKILL, first message, drain",
    "settled": "Memory with a backlog, after a while without work",
    "crash": "SIGKILL while publishing",
    "proof": "Each sync delayed",
}
SETS = {
    "quick": ["idle", "window1", "eight", "through", "proof"],
    "core": ["idle", "window1", "one", "eight", "small8", "through", "paced",
             "backlog", "crash", "proof"],
    "all": ["idle"] + [load.key for load in LOADS] +
           ["backlog", "settled", "crash", "proof"],
}
# Scenes that the peers' defaults take part in.
DEFAULT_SCENES = {"idle", "backlog", "settled", "crash", "proof"}
SETTLE_S = 15
# Scenes done once, in the first round: they prove or count, they do not time.
ONCE = {"settled", "crash", "proof"}


def find(key):
    for load in LOADS:
        if load.key == key:
            return load
    return None


def chosen(names):
    """Keys, from a list of keys and names of sets, each once."""
    keys = []
    for name in names:
        for key in SETS.get(name, [name]):
            if not find(key) and key not in SCENES:
                raise ValueError(
                    "there is no load \"%s\"; there are %s, and the sets %s" % (
                        key, ", ".join(SETS["all"]), ", ".join(SETS)))
            if key not in keys:
                keys.append(key)
    return keys


def takes_part(peer, key):
    if peer.column == "durable":
        return True
    load = find(key)
    return load.defaults if load else key in DEFAULT_SCENES
