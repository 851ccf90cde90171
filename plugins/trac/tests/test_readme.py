"""The README's samples work, and its table of settings is the plugin's."""

import re
from pathlib import Path

import pytest
from trac.config import Configuration, Option

from conftest import request
from countersign_trac import LaunchpadLogin, verifier_of

README = (Path(__file__).parent.parent / 'README.md').read_text(encoding='utf-8')


@pytest.fixture
def sample(tmp_path):
    [fragment] = re.findall(r'```ini\n(.*?)```', README, re.DOTALL)
    path = tmp_path / 'trac.ini'
    path.write_text(fragment, encoding='utf-8')
    return Configuration(str(path))


def test_the_sample_configures_the_plugin(make_env, sample):
    env = make_env()
    env.config.set('trac', 'base_url', '')
    for section in sample.sections():
        for name, value in sample.options(section):
            if sample[section].contains(name, defaults=False):
                env.config.set(section, name, value)
    issuer = LaunchpadLogin(env)._issuer()
    assert issuer.issuer == 'https://launchpad.net'
    assert issuer.audience == 'https://trac.example.org/project'


def test_the_sample_enables_the_plugin(sample):
    assert dict(sample.options('components'))['countersign_trac.*'] == 'enabled'


def test_every_setting_is_in_the_table():
    options = {name for section, name in Option.get_registry() if section == 'launchpad'}
    assert set(re.findall(r'^\| `(\w+)` \|', README, re.MULTILINE)) == options


def test_the_sentences_of_the_check_are_the_plugins(make_env):
    assert 'Login by token is not configured here' in README
    assert 'Login by token is not configured here' in request(make_env(), '/launchpad-auth/abc').text
    assert verifier_of('https://issuer.example.org/%s').timeout == 5.0
