"""What stores in a bucket of this machine are opened with."""

from __future__ import annotations

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAQUITESECRET",
    "AWS_SECRET_ACCESS_KEY": "evenmoresecret",
    "AWS_SESSION_TOKEN": "tokenofit",
}
URL = "s3://cells/fluo"
