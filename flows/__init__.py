"""IN WHICH ORDER: the life of a model for a business process. One file per flow; its body reads as its title.

schedule · Prefect UI · `clerkflow train` · drift · enough new labelled records
        │
        ▼
raw ──► validated ──► samples ──► model ──► evaluation ──► gate ──► published      train.py
         │ rows that fail                                   │ refused: kept, never published
         ▼                                                  ▼
      quarantine                                        reasons, exit status 1
                                                          with gate.approval: a request waits for
                                                          `clerkflow approve` or the flow `decide`   decide.py

schedule · Prefect UI · `clerkflow score` · a new unlabelled file
        │
        ▼
champion + new records ──► predictions · dead letters · what monitoring needs        score.py

schedule · Prefect UI · `clerkflow monitor`
        │
        ▼
reference of the champion + recent batches ──► drift report ──► train, when it drifts  monitor.py

Prefect UI · `clerkflow backfill`
        │
        ▼
past days of the inbox + that day's champion ──► predictions · drift reports          backfill.py

Prefect UI · `clerkflow tune`
        │
        ▼
raw records ──► samples ──► settings of the training, for a person to declare         tune.py

schedule
        │
        ▼
runs without a sign of life ──► crashed ──► tried again, twice at most               watchdog.py

schedule
        │
        ▼
inbox against the ledger ──► what events missed is started; an alarm when a file is unknown  reconcile.py

schedule · `clerkflow tidy`
        │
        ▼
old runs, results, batches, entries, versions ──► what is still needed                tidy.py

The files, in the order of a model's life and then of what commands need:

__main__.py          the command line
train.py             raw records -> … -> gate -> published shards
pretrain.py          raw records of several processes -> a published base model
tune.py              raw records -> samples -> settings of the training that leave a smaller loss
decide.py            a person's word on a model that waits -> champion
score.py             champion + new records -> predictions, dead letters
monitor.py           reference + recent batches -> drift report -> a training run when it drifts
backfill.py          past days of the inbox -> scored or monitored, each with that day's champion
replay.py            dead letters of a batch -> asked again, a batch of their own
reconcile.py         inbox against ledger -> what events missed is started; an alarm
watchdog.py          runs that died without a word -> crashed; crashed ones tried again, twice at most
tidy.py              old runs, results, batches, entries, versions -> what is still needed
watch.py             hints of what arrived -> the ledger and one event for each flow that is due
serve.py             one deployment per flow and declared process, on its schedule and for what arrives
parameters.py        what a person may change for one run: the form in the Prefect UI
turns.py             of two runs at once one works; the other says so and is skipped
versions.py          the commands models, rollback, verify, export, sign and gc
again.py             the commands why, retry, replay and watchdog
opening.py           a process's name and overrides -> the run every stage is given
pages.py             what a process owner sees in the Prefect UI
telling.py           what came of a run, in a message; also when it failed or crashed
review.py            what waits for a person -> a page on loopback
review_page.py       its words in two languages, and its HTML
console.py           what the command line prints
listing.py           of versions: which there are, who vouches for them, what went
demo.py              the story that `make demo` tells
"""
