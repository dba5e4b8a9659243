"""The local page and its HTTP interface (`mt3 serve`).

`security` lets requests in, `uploads` takes recordings, `parameters` reads how they are
to be transcribed, `queue` transcribes them client by client in turn, and `app` answers
from it. `command` runs all that on a port.

Needs the packages of the extra `[serve]`.
"""
