"""WHAT: one module per stage, in the order of the data's life.

stage        | reads                          | writes                              | module
-------------|--------------------------------|-------------------------------------|----------------
ingestion    | declared source, inbox/        | raw/                                | ingestion.py
validation   | raw/                           | validated/, quarantine/, data_docs/ | validation.py
preparation  | validated/                     | samples/                            | preparation.py
fine-tuning  | samples/                       | model/                              | finetuning.py
compression  | model/, samples/               | compressed/                         | compression.py
search       | samples/                       | search/                             | search.py
evaluation   | model/, samples/, the champion | evaluation/                         | evaluation.py
gate         | evaluation/                    | gate/                               | gate.py
publishing   | model/, evaluation/, verdict   | models/                             | publishing.py
arrivals     | inbox/, the ledger             | arrivals/                           | arrivals.py
scoring      | the champion, new records      | batches/                            | scoring.py
drift        | reference, recent batches      | drift/                              | drift.py

The files: stages in the order of the data's life, each followed by what only it needs.

process.py           what a declaration may say, typed, frozen
tuning.py            the part of a declaration that says how a model is trained, with its defaults
spaces.py            the part of it that says how settings are searched for, and among which
mistakes.py          what in a declaration does not hang together
terms.py             the part of a declaration that says when a model is released and who is told
declaration.py       process.yaml + overrides -> Process, all mistakes at once
records.py           one row of paperwork as it travels
prompts.py           record <-> prompt and completion; one home for training, check and batches
runs.py              run.json, and what each stage remembers so that a run can be taken up again
stories.py           which code, library, setting, data or input of a stage changed
claims.py            who is at work on what: a lease that is renewed, a token that grows
retries.py           how often a crashed run was tried again
artifacts.py         what passes between stages: references with digests
ledger.py            what became of each version of each file of inbox/
ingestion.py         declared source, inbox/ -> raw/
readers.py           JSONL, CSV, Parquet, XLSX -> records or rejected rows
encodings.py         which encoding a file has, and how that is known
delimited.py         CSV rows; one broken quote costs one row
sheets.py            XLSX and Parquet rows
workbooks.py         an XLSX file -> rows of one sheet; nothing in it is unpacked beyond bounds, no row is left out
validation.py        raw/ -> validated/, quarantine/, data_docs/      (Great Expectations)
expectations.py      what may be expected, what follows from the declaration
arguments.py         what a declared expectation is told, and the mistakes in it
datadocs.py          Great Expectations' page, with all it needs
repairs.py           small slips mended, each with a note
suites.py            rows -> what Great Expectations says of them, by position
preparation.py       validated/ -> samples/{train,validation,test}
tokenising.py        samples -> tokens, and the contract of whoever asks the model
forms.py             how fields are filled in: chosen, marked in the prompt, or spelled
columns.py           a table's values as tokens with their names, numbers told by the part of their range
facts.py             what a text must state, and which texts do
mentions.py          which of a record's values a text leaves out, in whatever words people say them   (scikit-learn)
numerals.py          a whole number in words, English or Chinese -> the number
days.py              a day however it is written -> YYYY-MM-DD
spans.py             values that stand in a text <-> marks on its tokens
cleaning.py          the cleaners that a declaration may name
duplicates.py        exact and near duplicates
splitting.py         a leak-free split that stays when data grow
vocabulary.py        byte-level BPE
bases.py             what a base model must be: known to transformers, in safetensors, no code of its own
preview.py           what `clerkflow check` shows
finetuning.py        samples/ -> model/
joining.py           the regression on words that answers with a model of labels or forms, where it helps   (scikit-learn)
budget.py            the declared minutes -> size, epochs, and what a declaration leaves open
training.py          the loop: resumable to the same bits
kernels.py           what torch does slowly on a CPU, done quicker: attention, dropout, losses
parallel.py          several processes that tune one model   (torch.distributed)
sharding.py          a model that is cut up among them        (FSDP2)
batching.py          token-budget batches
averaging.py         the weights of many steps as one model
paraphrasing.py      a training prompt in other words around its values, as declared
subwords.py          a prompt in other tokens each time it is shown
swapping.py          other values in the place of marked ones, so that copying is learned
synthetic.py         few rows of a table -> more of them, labelled by what is good at tables
checkpoints.py       survive a kill; torn ones are skipped
models.py            from scratch, from a base, LoRA                  (transformers, peft)
embeddings.py        what stands near what in the prompts -> where embeddings begin   (scikit-learn)
generation.py        prompts -> outputs with a confidence
linear.py            words and pieces of words -> how much speaks for each label
windows.py           the words around a token -> how much speaks for each mark of a form
engines.py           CTranslate2 in the place of transformers, where it writes the very same
guiding.py           what a base model may write, when its own words state no label
objects.py           or no fields: JSON as declared, values of their type, texts out of the prompt   (xgrammar)
beginnings.py        whether a text can still become a number or a day that the declaration takes
filling.py           only what the declaration allows is ever written
compression.py       model/ -> model/, smaller or faster, where its own gate lets it pass
distillation.py      what a tuned model thinks of each token, as a part of what a smaller one learns
search.py            trials that stop when they are worse than most, a study that is gone on with   (Optuna)
studies.py           a study -> plain data, and a page with its plots
domains.py           data/bases/<name>.yaml: whose texts a base reads
pretraining.py       their texts, but none that measures -> a published base model
evaluation.py        model, champion, baselines on the same test split
cases.py             a split as what is asked and what is right
certificate.py       from which confidence on an answer is accepted, and what vouches for it
scope.py             how much a text is like the training records
hashing.py           texts -> MurmurHash3 of each run of their characters
automation.py        held-out answers -> a version's certificate, and its straight-through rate
metrics.py           named measures
baselines.py         majority, TF-IDF + linear, nearest neighbour
tabular.py           of tables: logistic regression, boosted trees
plots.py             learning curve, confusion, reliability
report.py            one HTML page
gate.py              metrics + rules -> verdict
publishing.py        model/ -> shards, manifest after them, alias last
shards.py            safetensors cut so that versions share what did not change
manifests.py         what a version consists of, and the root and signature that stand for it
registry.py          files -> a version and back, every byte hashed on the way
reservations.py      a running publish and a collection never meet
aliases.py           champion, challenger, previous, and the log of who was champion when and why
approvals.py         a model that passed waits for a person's word: requests as data, and how they stand
decisions.py         a person's word, written once -> the champion's alias
approvers.py         who may decide, and what a name is worth
rehearsal.py         what was published, downloaded again, must answer as what was tested
verification.py      a version -> the first bytes that differ from what was published
retention.py         old versions go, what others need stays
tidying.py           old runs and what they left behind go, what is referred to stays
progress.py          how far a long stage is, in the Prefect UI
sources.py           a file, a key or a table -> bytes on this machine, and their name among batches
tables.py            rows of a SQL table -> a copy on this machine, page by page
answering.py         records + what was answered + model -> predictions, dead letters, chunk by chunk
faults.py            why the model cannot be asked about a record
repeats.py           which records of a batch came before in it
tallies.py           what became of a batch's records, and when too many of them are dead letters
answers.py           the ledger of what models have answered: once, whoever asks again
workers.py           prompts -> predictions by several processes, each with the model loaded once   (Ray)
predictions.py       what the model says to one prompt
reasons.py           why a record got no output, as codes
results.py           predictions -> rows of a SQL table, whole batches only
contents.py          which content of a record its row stands for, so that a word on an older one changes nothing
turns.py             rows of a table that change back to what they were are shown again
replays.py           dead letters -> the records that are asked about again
routing.py           accepted, or a person looks at it, and why
reviewing.py         a person's word, written once -> gold to measure with, then training data
waiting.py           review.jsonl and audit.jsonl of the batches -> what waits for a person, in order, on disk
reviews.py           what a person said on a record, as an object that is written once
lessons.py           which reviews a training has read, and how many wait for one
audit.py             words on accepted answers that were drawn for a person -> whether a version's certificate holds
words.py             what people have said to records before -> it stands, whichever model is asked later
batches.py           what a batch's manifest says, and which batches there are
scoring.py           champion + new records -> batches/
arrivals.py          inbox/ against the ledger -> what waits to be scored or learned from
sinks.py             predictions as JSONL, CSV, Parquet, XLSX
deliveries.py        accepted answers -> what a business works with: sheets, perhaps by queue, and a document each
documents.py         a title, paragraphs, a table of values -> DOCX, HTML, Markdown
rows.py              a finished batch -> the rows of its files, whichever format they have
released.py          what people have accepted or corrected -> a batch of its own
explaining.py        a record of a batch -> all that led to its output
features.py          what monitoring looks at
drift.py             reference + recent batches -> drift/             (Evidently)
backfill.py          which past days there are, and who was champion on each
notices.py           messages to webhooks, mail, chat                 (Apprise)
"""
