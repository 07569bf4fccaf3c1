"""Ray's environment. Ray reads some of it while it is imported, so this module must not import Ray, and comes first."""

import os
import secrets
import sys

FORMS_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where it is 0, Ray forms no clusters and binds to the loopback address, on any system."""


def prepare_environment() -> None:
    """Sets what Ray must find in the environment before it is imported.

    Authentication is always explicit. What the environment says is kept. For a cluster that says nothing of a token there is
    none: disabled. For a session of our own a random token is made, in the environment only, so that no other user of the
    machine can reach it and no home directory is needed.
    """
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a thread that asks Ray for something after its end starts no new one
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this environment, whatever started the driver
    if not os.environ.get("RAY_ADDRESS"):
        # Everything binds to the loopback address: nobody else is meant to come. (Ray's default where it forms no clusters.)
        os.environ.setdefault(FORMS_CLUSTERS, "0")
        # A session whose head has died ends soon, not after a minute.
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "15")
        # On a busy machine a worker takes long to start: Ray would end it after a minute, and start another, for ever.
        os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")
        # Ray's workers give way to everything else on a machine; a run that somebody waits for should not.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # A session of our own has no metrics: Ray keeps a time series for every name of a call, and ours name clients and rounds.
        os.environ.setdefault("RAY_enable_metrics_collection", "0")
    if "RAY_AUTH_MODE" in os.environ:
        return
    if os.environ.get("RAY_ADDRESS"):
        os.environ["RAY_AUTH_MODE"] = "disabled"
        return
    if "ray" in sys.modules and not sys.modules["ray"].is_initialized():
        # Ray has read its settings while it was imported: a token that is made now would be known to its servers only. So there
        # is none, and only this machine reaches the session.
        os.environ["RAY_AUTH_MODE"] = "disabled"
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
