"""A message's body, by its number and length: a text without line ends that
no other number has."""

import hashlib


def body(number, length):
    head = "%d " % number
    filler = hashlib.blake2b(head.encode()).hexdigest()
    times = length // len(filler) + 1
    return (head + filler * times)[:length]
