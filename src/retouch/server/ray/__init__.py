"""The studio on a cluster, as an application of Ray Serve; `retouch.server.ray.application:application` builds it.

Nothing here knows how sessions are edited: replicas run the studio's own application (`server/app.py`), the ingress
hands requests to the replica that their session belongs to, and what keeps two of them apart is the storage's claims
(`editing/lease.py`, `editing/home.py`).
"""
