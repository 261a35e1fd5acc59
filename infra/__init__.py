"""WHERE: settings of this machine and the object store. Imports nothing of tasks or flows.

The files:

settings.py          environment variables, read once, typed
store.py             the object store's promises, and a local folder that keeps them
bucket.py            the same promises on MinIO
events.py            what MinIO or a folder tells of arrivals; what the Prefect server is told
dispatch.py          which of our runs wait and run, and starting one
database.py          a SQLite file or a PostgreSQL server, whose errors hold no value and no secret
deaths.py            which of them crashed or hang, marking them and trying again
here.py              this process among all; whether another one still lives
spans.py             parts of files as one stream, hashed and sent without a copy
transfer.py          many objects at once, with a bar
signing.py           Ed25519 keys of those who publish
connection.py        a client of the server, with TLS and a CA of one's own
credentials.py       the two keys, or a profile of a credentials file
roles.py             publisher, scorer, watcher: what each may do, as policies
users.py             policies and users of a MinIO server
postgres.py          a PostgreSQL server of one's own, for tests and benchmarks
provision.py         the bucket and its users made ready: `python -m infra.provision`
minio.py             a MinIO server of one's own, for tests and for trying out
system.py            all of it on this machine: `make up`, `make down`
worker.py            a Prefect worker whose runs begin at once
warm.py              a run's process: a fork, when there is a process to fork from
forking.py           that process, which has imported the flows once for all runs
reports.py           links of the Prefect UI -> pages of the store, for who has the password
results.py           how long Prefect keeps what it keeps
certificates.py      the CA and the certificate of such a server
threads.py           how torch shares the machine
cluster.py           Ray on this machine for as long as it is needed, or the cluster that RAY_ADDRESS names
scratch.py           folders that are gone afterwards, also after a kill
ending.py            a child of ours, ended in good order
ports.py             a port of loopback that is free
orphans.py           Prefect servers that a killed command left behind
"""
