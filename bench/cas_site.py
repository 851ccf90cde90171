"""A CAS server as Django has it: django-mama-cas, with its tickets in the PostgreSQL that CAS_POSTGRES names.

`bench/compare` serves it with gunicorn. Run as a program, it makes the tables and the one user.
"""

import os
import urllib.parse

import django
from django.conf import settings

DATABASE = urllib.parse.urlsplit(os.environ["CAS_POSTGRES"])

settings.configure(
    SECRET_KEY="a measurement, not a service",
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": DATABASE.hostname,
            "PORT": DATABASE.port,
            "USER": DATABASE.username,
            "PASSWORD": DATABASE.password,
            "NAME": DATABASE.path.lstrip("/"),
            "CONN_MAX_AGE": None,
        }
    },
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "mama_cas",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    # What a session holds need not be asked of the database: that is in its favour.
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    ROOT_URLCONF="mama_cas.urls",
    MAMA_CAS_SERVICES=[{"SERVICE": "^http://tracker\\.example/.*"}],
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    LOGGING_CONFIG=None,
)
django.setup()

if __name__ == "__main__":
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    get_user_model().objects.create_user("worker", password="secret")
else:
    from django.core.wsgi import get_wsgi_application

    application = get_wsgi_application()
