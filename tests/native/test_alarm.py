"""The timer that a probe's thread is woken by."""

import os
import select

import pytest

from eagle_eye.native.alarm import Alarm


@pytest.fixture
def alarm():
    made = Alarm()
    yield made
    made.close()


def is_ringing(alarm, wait_s):
    return bool(select.select([alarm.fd], [], [], wait_s)[0])


def test_it_rings_when_the_time_has_come_and_not_before(alarm):
    assert not is_ringing(alarm, 0.02)
    alarm.set(1_000_000)
    assert is_ringing(alarm, 5)
    alarm.set(0)
    assert not is_ringing(alarm, 0)


def test_setting_it_anew_puts_it_off(alarm):
    alarm.set(1)
    assert is_ringing(alarm, 5)
    alarm.set(60_000_000_000)
    assert not is_ringing(alarm, 0)


def test_closing_gives_the_descriptor_back(alarm):
    fd = alarm.fd
    alarm.close()
    alarm.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
