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
"""
