"""Let Launchpad's own client classes, from a checkout of Launchpad, work with a real bug tracker: see `run`.

The classes that talk to trackers are Launchpad's, and so is what decides which bugs to look at, which comments to import and to push,
and how to link. All else of Launchpad is missing here: its database, its web pages, its configuration. Stand-ins take their
place, of which this file has those that matter; every other name that is imported becomes one that does nothing.

Standard input has the bugs that Launchpad watches, as JSON:

    {"watches": [{"remote_bug": "1", "local_bug": 4711, "checked": true, "push": ["a comment", ...]}, ...]}

Standard output gets what it did, as JSON; "checked" is an earlier run in which it had seen the bug already.
"""

import importlib
import json
import os
import sys
import types
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from zope.interface.interface import InterfaceClass

LIB = Path(os.environ['LAUNCHPAD_CHECKOUT']) / 'lib'

# Launchpad's own, loaded from the checkout.
GENUINE = {
    'lp.app.validators.email', 'lp.bugs.adapters.treelookup', 'lp.bugs.externalbugtracker.base',
    'lp.bugs.externalbugtracker.bugzilla', 'lp.bugs.externalbugtracker.trac', 'lp.bugs.externalbugtracker.xmlrpc',
    'lp.bugs.interfaces.externalbugtracker', 'lp.bugs.scripts.checkwatches.bugwatchupdater',
    'lp.bugs.scripts.checkwatches.core', 'lp.bugs.scripts.checkwatches.remotebugupdater',
    'lp.bugs.scripts.checkwatches.utilities', 'lp.services.timeout', 'lp.services.webapp.url',
}
# Not installed here.
STOOD_IN_FOR = ('lp', 'lazr', 'twisted', 'storm', 'transaction', 'zope.component', 'zope.event', 'zope.schema', 'zope.security')


class Choices(type):
    """An enumeration of Launchpad's, with the members that are asked for."""

    def __getattr__(cls, name):
        if name.startswith('__'):
            raise AttributeError(name)
        member = cls()
        member.name = member.title = name
        setattr(cls, name, member)
        return member

    def __contains__(cls, member):
        return isinstance(member, cls)


def stand_in(module, name):
    """Something that can be imported under this name, and mostly does nothing."""
    if name[:1] == 'I' and name[1:2].isupper():
        return InterfaceClass(name, __module__=module)
    if name.endswith(('Error', 'Exception', 'Unauthorized')):
        return type(name, (Exception,), {})
    if name[:1].isupper():
        return Choices(name, (), {})
    return lambda *arguments, **options: arguments[0] if len(arguments) == 1 else None


class StandIn(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        full_name = self.__name__ + '.' + name
        thing = importlib.import_module(full_name) if full_name in GENUINE else stand_in(self.__name__, name)
        setattr(self, name, thing)
        return thing


class Finder(MetaPathFinder, Loader):
    def find_spec(self, name, path=None, target=None):
        if name in GENUINE:
            return PathFinder.find_spec(name, [str(LIB.joinpath(*name.split('.')[:-1]))])
        if any(name == other or name.startswith(other + '.') for other in STOOD_IN_FOR):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        for name, thing in GIVEN.get(module.__name__, {}).items():
            setattr(module, name, thing)


class Settings(types.SimpleNamespace):
    """Launchpad's configuration. There are no passwords in it."""

    def __getitem__(self, section):
        return {}


@contextmanager
def transaction():
    yield


class WorkingBase:
    """As much of the base class of Launchpad's workers as does not need a database."""

    def init(self, login, transaction_manager, logger):
        self.transaction, self.logger = Transaction(), logger

    def initFromParent(self, parent):
        self.transaction, self.logger = parent.transaction, parent.logger

    def warning(self, message, properties=None, info=None):
        LOG.append('warning: ' + message)

    def error(self, message, properties=None, info=None):
        LOG.append('error: %s: %r' % (message, sys.exc_info()[1]))
        return 'OOPS'


class Transaction:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def abort(self):
        pass


class Logger:
    def info(self, message, *_):
        LOG.append(message)

    debug = warning = error = info


class Found(list):
    """Rows of Launchpad's database, as far as they are looked at."""

    def any(self):
        return self[0] if self else None

    def count(self):
        return len(self)


class Watch:
    """A bug that Launchpad watches, and what became of it."""

    def __init__(self, place, wanted):
        self.id, self.remotebug = place, wanted['remote_bug']
        self.bug = types.SimpleNamespace(id=wanted['local_bug'], duplicateof=None, followup_subject=lambda: '',
                                         addCommentNotification=lambda message: None)
        self.bugtasks, self.url, self.title, self.bugtracker = [1], 'url of ' + self.remotebug, self.remotebug, self
        self.lastchecked = datetime.now(timezone.utc) - timedelta(hours=1) if wanted.get('checked') else None
        self.known, self.imported, self.seen = set(), Found(), False
        self.to_push = Found(types.SimpleNamespace(
            remote_comment_id=None, message=types.SimpleNamespace(
                owner=types.SimpleNamespace(displayname='Bob'), text_contents=text, rfc822msgid='<%d@launchpad>' % number))
            for number, text in enumerate(wanted.get('push', ())))
        self.pushed, self.status, self.importance, self.activity = [], None, None, []

    @property
    def unpushed_comments(self):
        return Found(comment for comment in self.to_push if comment.remote_comment_id is None)

    def hasComment(self, comment_id):
        return comment_id in {comment.remote_comment_id for comment in self.to_push}

    def getImportedBugMessages(self):
        return self.imported

    def ensurePersonForSelf(self, display_name, email, *_):
        return types.SimpleNamespace(displayname=display_name, email=email)

    def addComment(self, comment_id, message):
        self.imported.append({'id': comment_id, 'name': message.owner.displayname, 'email': message.owner.email,
                              'text': message.text_contents, 'date': message.datecreated.isoformat()})
        return types.SimpleNamespace(message=message)

    def updateStatus(self, remote, local):
        self.status = [remote, local.name]

    def updateImportance(self, remote, local):
        self.importance = [remote, local.name]

    def addActivity(self, result=None, message=None, oops_id=None):
        self.activity.append([result.name if result else None, message])


class Utilities:
    """What Launchpad's `getUtility` hands out."""

    def __call__(self, interface):
        return self

    def fromText(self, subject, content, owner, datecreated=None, **_):
        return types.SimpleNamespace(owner=owner, text_contents=content, datecreated=datecreated or datetime.now(timezone.utc))

    def getBugWatchesForRemoteBug(self, remote_bug, ids):
        return [watch for watch in WATCHES if watch.remotebug == remote_bug and watch.id in ids]

    def bulkSetError(self, watches, error=None):
        for watch in watches:
            watch = WATCHES[watch] if isinstance(watch, int) else watch
            watch.activity.append([error.name if error else None, None])

    def bulkAddActivity(self, watches, result=None, **_):
        pass

    def get(self, bug_id):
        return types.SimpleNamespace(getBugWatch=lambda tracker, remote: None)

    bug_watch_updater = types.SimpleNamespace(displayname='updater', email=None)


def email_template(name, app=None):
    return {'default_remotecomment_template.txt': '%(comment_author)s wrote in bug %(launchpad_bug)s:\n%(comment_body)s\n'}.get(
        name, '')


kind, url, xmlrpc_url = sys.argv[1:]
LOG = []
WATCHES = [Watch(place, wanted) for place, wanted in enumerate(json.load(sys.stdin)['watches'])]
GIVEN = {
    'lp': {'_': lambda text: text},
    'lp.services.config': {'config': Settings(
        checkwatches=types.SimpleNamespace(xmlrpc_url=xmlrpc_url, default_socket_timeout=60.0, sync_comments=True,
                                           batch_query_threshold=10),
        launchpad=types.SimpleNamespace(http_proxy=None, ca_certificates_path=os.environ.get('LAUNCHPAD_CA'),
                                        urlfetch_timeout=60.0))},
    'lp.services.mail.helpers': {'get_email_template': email_template},
    'lp.services.webapp.publisher': {'canonical_url': lambda bug: 'https://launchpad.net/bugs/%s' % getattr(bug, 'id', '')},
    'lp.app.errors': {'NotFoundError': KeyError},
    'lp.bugs.scripts.checkwatches.base': {'WorkingBase': WorkingBase, 'commit_before': lambda function: function,
                                          'with_interaction': lambda function: function},
    'lp.services.scripts.base': {'LaunchpadCronScript': object},
    'zope.component': {'getUtility': Utilities()},
}
sys.meta_path.insert(0, Finder())

base, bugzilla, trac = (importlib.import_module('lp.bugs.externalbugtracker.' + name) for name in ('base', 'bugzilla', 'trac'))

# Launchpad's package re-exports what these modules have.
for module in (base, bugzilla, trac):
    for name in module.__all__:
        setattr(sys.modules['lp.bugs.externalbugtracker'], name, getattr(module, name))

from lp.bugs.scripts.checkwatches.core import CheckwatchesMaster  # noqa: E402

tracker = {'trac': trac.Trac, 'bugzilla': bugzilla.Bugzilla}[kind](url).getExternalBugTrackerToUse()
report = {'class': type(tracker).__name__, 'syncs_comments': bool(tracker.sync_comments), 'logins': 0, 'error': None}


def counted(log_in):
    def logs_in():
        report['logins'] += 1
        return log_in()
    return logs_in


if hasattr(tracker, '_authenticate'):
    tracker._authenticate = counted(tracker._authenticate)
master = CheckwatchesMaster.__new__(CheckwatchesMaster)
master.init('', None, Logger())
master.remote_bug_updater_factory = sys.modules['lp.bugs.scripts.checkwatches.remotebugupdater'].RemoteBugUpdater
try:
    # No limit to a batch is what an operator's `--batch-size=0` means.
    master.updateBugWatches(tracker, WATCHES, batch_size=0)
except Exception as e:
    report['error'] = repr(e)
report['log'] = LOG
report['watches'] = [{
    'remote_bug': watch.remotebug, 'status': watch.status, 'importance': watch.importance, 'imported': watch.imported,
    'pushed': [comment.remote_comment_id for comment in watch.to_push], 'activity': watch.activity,
    'was_checked': watch.lastchecked is not None and watch.lastchecked != 'UTC_NOW',
} for watch in WATCHES]


def link(remote_bug):
    try:
        return tracker.getLaunchpadBugId(remote_bug)
    except Exception as e:
        return repr(e)


report['links'] = {watch.remotebug: link(watch.remotebug) for watch in WATCHES}
json.dump(report, sys.stdout, indent=1, default=repr)
