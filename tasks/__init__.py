"""WHAT: one module per stage, in the order of the data's life.

stage        | reads                          | writes                              | module
-------------|--------------------------------|-------------------------------------|----------------
ingestion    | declared source, inbox/        | raw/                                | ingestion.py
validation   | raw/                           | validated/, quarantine/, data_docs/ | validation.py
preparation  | validated/                     | samples/                            | preparation.py
fine-tuning  | samples/                       | model/                              | finetuning.py
search       | samples/                       | search/                             | search.py
evaluation   | model/, samples/, the champion | evaluation/                         | evaluation.py
gate         | evaluation/                    | gate/                               | gate.py
publishing   | model/, evaluation/, verdict   | models/                             | publishing.py
arrivals     | inbox/, the ledger             | arrivals/                           | arrivals.py
scoring      | the champion, new records      | batches/                            | scoring.py
drift        | reference, recent batches      | drift/                              | drift.py
"""
