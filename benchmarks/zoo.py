"""The zoo: no default is worse than the simple answer, on small problems for which none was tuned.

    python benchmarks/zoo.py [--jobs denoising,ct] [--priors tv,wavelet | all] [--half odd]
        [--limit 4] [--results FILE] [--only-print]
    python benchmarks/zoo.py --fresh [--commit REVISION] [--priors tv,default]
    python benchmarks/zoo.py --compare FILE FILE

Every item is a function of its job and index (`benchmarks/zoo/`). Loss = 20 log10 (error of the
answer / error of the simple answer), with errors not below 60 dB of the truth's range, or the job's
resolution. Rules are chosen on the even items and reported on the odd ones. A job and prior holds
the floor with a mean of at most 0 dB, at most 0.3 dB in 99 % of the items, and at most 1 dB in
every item without a mark; at most 10 % of the items, and 5 % of those with a loss below 0, are
marked. A mark is a warning about the measurements, or a status, that names the reason.

Fresh items are of kinds on which no rule was chosen, and their indices begin at the digest of a
commit, so that no item existed when that code was written. Each run is kept in
benchmarks/results/fresh, named after the commit of its items and the commit of the code that solved
them; PYTHONPATH gives the code of another commit. `--compare` prints two runs of the same items. A
mark is a false alarm if the item has no fault (a wrong kernel or center, gains, beam hardening).

Items that are in the results file are not solved again.
"""

from zoo.run import main

if __name__ == "__main__":
    main()
