"""``forcelaw data generate``: real quantum-mechanical labels without any download.

Neutral closed-shell organic molecules (H C N O F P S Cl Br, 3 to 50 atoms) are drawn by the
package's own combinatorial generator (:mod:`.molecules`) or read from SMILES (:mod:`.smiles`),
embedded and displaced (:mod:`.conformers`), labelled with GFN2-xTB (:mod:`.label`) in worker
processes (:mod:`.worker`, :mod:`.pipeline`), and written as a pack (:mod:`.assemble`).
"""
