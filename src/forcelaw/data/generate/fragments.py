"""The vocabulary of the molecule generator: small molecules, ring systems, chains, substituents and
linkers.

All lists were written for this package. A fragment is plain SMILES; the first atom of a substituent
or linker is the one that is joined, what would follow a linker carries the next ring. Any atom of a
core that has a hydrogen is a possible site.
"""

from __future__ import annotations

# Whole molecules of 3 atoms and more; drawn now and then so that the small end of chemistry is
# present.
_SMALL = """
O S C N P O=C=O S=C=S O=C=S C#N C=O C=S O=S=O CC C=C C#C CO CN CS CP CF CCl CBr FCF ClCCl BrCBr
FC(F)F
ClC(Cl)Cl FC(F)(F)F ClC(Cl)(Cl)Cl BrC(Br)Br FC(Cl)Cl FC(F)Cl NC=O OC=O SC=O NC#N CC#N FC#N ClC#N
BrC#N C#CC#N
N#CC#N C=C=C C=C=O C#CC C=CC CCC CCO COC CSC CNC CPC CCN CCS CCF CCCl CCBr CC=O CC#C C=CF C=CCl
C=CBr C#CF C#CCl
FC=CF ClC=CCl FC(F)=C ClC(Cl)=C C1CC1 C1CO1 C1CN1 C1CS1 C1=CC1 O=C=NC N=C=O N=C=S S=C=NC NN NO NCN
OCO NC(=O)N
NC(=S)N NC(N)=N CC(C)=O CC(=O)O CC(=O)N COC=O CNC=O OCC=O O=CC=O OC(=O)C=O NCC#N OCC#N CN=C C=N CC=N
CON=C
CS(C)=O CS(=O)(=O)C OS(=O)(=O)O OP(=O)(O)O O=P(O)O OS(O)=O FS(F)(=O)=O O=S(Cl)Cl O=P(Cl)(Cl)Cl
O=P(F)(F)F PC
P(F)(F)F P(Cl)(Cl)Cl CP(C)C CP(C)(C)=O ClPCl CSSC CSS SS NS CCl C(F)(F)(F)C#N C[N+](=O)[O-]
O[N+](=O)[O-]
ON=O CON=O [C-]#[N+]C C=[N+]=[N-] CN=[N+]=[N-] FC(F)(F)S CSC#N C#P C=P C=CC=C C=CC#C C#CC#C C=CC=O
C=CC#N C#CC=O
CC(=O)C#N FC(=O)F ClC(=O)Cl O=C(F)C CC(=O)Cl O=CBr FCCF ClCCCl BrCCBr FCCO ClCCO OCCO NCCN NCCO SCCS
CCCC CC(C)C
"""

# Ring systems with a weight per line: aromatic and saturated rings, fused, bridged, spiro and cage
# systems.
_RINGS = """
8: c1ccccc1 c1ccncc1
4: n1ccncc1 c1cncnc1 c1ccoc1 c1ccsc1 c1cc[nH]c1 c1c[nH]cn1 c1cn[nH]c1 c1cocn1 c1cscn1 c1conc1
4: c1csnc1
2: c1ccnnc1 c1ncncn1 c1cnnc(n1) c1c[nH]nn1 c1nc[nH]n1 c1nnn[nH]1 c1nnco1 c1ncno1 c1nncs1 c1ncns1
2: c1cnns1 c1cc[pH]c1
4: C1CC1 C1CCC1 C1CCCC1 C1CCCCC1 C1=CCCC1 C1=CCCCC1
2: C1CCCCCC1 C1=CCC=CC1 C1=CC=CC1 C1=CCC1 C1=CCC=C1
3: C1CN1 C1CO1 C1CS1 C1CNC1 C1COC1 C1CSC1 C1CCNC1 C1CCOC1 C1CCSC1 C1CCNCC1 C1CCOCC1 C1CCSCC1
3: C1CNCCN1 C1COCCN1
2: C1CSCCN1 C1COCCO1 C1OCCO1 C1CSCS1 C1OCCCO1 C1CCPC1 C1CCPCC1 C1CNCCCN1 C1CCNCCC1 C1NCCN1 C1CNOC1
2: C1CNNC1 C1CSSC1
3: O=C1CCC1 O=C1CCCC1 O=C1CCCCC1 O=C1CCCN1 O=C1CCCO1 O=C1CCCCN1 O=C1CCN1 O=C1CCO1 O=C1CNCCN1
3: O=C1CCC(=O)N1
2: O=C1C=CC(=O)N1 O=C1COC(=O)N1 O=C1NCCN1 O=C1NCCO1 O=C1NC(=O)CN1 O=C1C=CCC1 O=C1C=CCCC1
2: O=C1C=COC=C1 O=C1CSC(=O)N1
2: O=C1CCCS1 S=C1NCCN1 O=S1(=O)CCCC1 O=S1(=O)CCCN1 O=P1CCCC1 O=P1(O)OCCO1 O=C1OCCO1 O=C1C=CNC=C1
2: O=c1cccc[nH]1
2: O=c1cc[nH]c(=O)[nH]1 Nc1cc[nH]c(=O)n1 Cc1c[nH]c(=O)[nH]c1=O O=c1ccocc1 O=c1cn[nH]cc1
2: O=C1C=CC(=O)C=C1
2: C1=NCCN1 C1=NCCO1 C1=NCCS1 C1=NCCC1 C1=COCC1 C1=COCCC1 C1=CNCC1 C1=CNC=CC1 C1=CSC=CS1 C1=COC=CO1
2: C1N=CC=N1
3: c1ccc2[nH]ccc2c1 c1ccc2occc2c1 c1ccc2sccc2c1 c1ccc2[nH]cnc2c1 c1ccc2[nH]ncc2c1 c1ccc2ocnc2c1
3: c1ccc2scnc2c1
3: c1ccc2ccccc2c1 c1ccc2ncccc2c1 c1ccc2cnccc2c1
2: c1ccc2ncncc2c1 c1ccc2nccnc2c1 c1ccc2nnccc2c1 c1ncc2nc[nH]c2n1 c1cnc2[nH]ccc2c1 c1cc2ccccn2c1
2: c1ccn2ccnc2c1
2: c1cnc2nccnc2n1 c1cc2sccc2s1 c1cc2[nH]ccc2s1 c1ccc2nsnc2c1 c1ccc2nonc2c1 c1ccc2cccc2cc1
2: c1ccc2[nH]nnc2c1
2: c1ccc2CCCc2c1 c1ccc2CCCCc2c1 c1ccc2CNCc2c1 c1ccc2OCOc2c1 c1ccc2OCCc2c1 c1ccc2OCCCc2c1
2: c1ccc2CCNCc2c1
2: c1ccc2NCCc2c1 c1ccc2OCCOc2c1 c1ccc2SCCc2c1 O=C1NC(=O)c2ccccc12 O=C1OCc2ccccc12 O=c1ccc2ccccc2o1
2: O=C1Cc2ccccc2N1
1: c1ccc2c(c1)[nH]c1ccccc12 c1ccc2c(c1)oc1ccccc12 c1ccc2c(c1)sc1ccccc12 c1ccc(cc1)-c1ccccc1
1: O=c1c2nc[nH]c2nc[nH]1
2: C1CC2CCC1C2 C1CC2CC1C=C2 C1CC2CCC1CC2 C1C2CC1C2 C1CC2CC2C1 C1CC2CC2C1 C1C2CC1CC2 C1CC2CCN1CC2
2: C1CN2CCN1CC2
2: C1CC11CC1 C1CC11CCC1 C1CC11CCNC1 C1CC2(C1)CNC2 C1CC2(C1)CCOCC2 C1CC2CCCC2C1 C1CCC2CCCCC2C1
2: C1CC2CNCC2C1
2: C1C2OC2CC1
1: C1C2CC3CC1CC(C2)C3 C12C3C4C1C5C2C3C45 C1OC2CCC1O2 C1CC2CCC1O2 C1CC2CCC1N2 C1CC2COC1C2 C1C2CN1C2
1: C1C2CC12
1: O=C1C2CCC1CC2
"""

# Open-chain cores, among them amino acids, small lipids and sugar-like pieces.
_CHAINS = """
6: C CC CCC CC(C)C CCCC
3: C=C C=CC C=CC=C C#C C#CC CC=CC CC(C)=C CCCCC CC(C)CC CC(C)(C)C
4: CO CCO COC CCOC CC(C)O OCCO COCCO CC=O CC(C)=O CCC=O CC(=O)O CC(=O)OC COC(=O)C CC(=O)CC(C)=O
4: OCC(O)CO
4: CN CCN CNC CN(C)C CCNC NCCN NCCO NCC(=O)O CC(N)C(=O)O NCC(=O)N CNC(=O)C CC(=O)N CC(=O)NCC NC(=O)N
4: CN(C)C=O
4: NC(=O)CC(N)=O
3: CC#N N#CCC#N CCC#N CC=N CC=NC CC=NO CN=CN NC(N)=N CC(N)=N CC(=O)NN CC(C)=NN COC(=O)N CC(=O)C(=O)O
3: C=CC(=O)O
3: C=CC(N)=O C=CC#N
3: CS CSC CCS CCSC CSSC CC(=O)S CC(=O)SC CC(N)=S CS(C)=O CS(C)(=O)=O CS(N)(=O)=O CS(=O)(=O)O
3: CNS(C)(=O)=O
3: COS(C)(=O)=O SCC(N)C(=O)O
3: CP CPC CP(C)C CP(C)(C)=O CP(O)(O)=O COP(=O)(OC)OC COP(O)(O)=O CP(=O)(OC)OC CNP(=O)(N)N CP(=S)(C)C
3: COP(=S)(OC)OC CP(=O)(C)OC
3: CCCl CCF CCBr FC(F)C FC(F)(F)C FC(F)C(F)F ClCC=C BrCC=C FC=CC ClC=CC ClCC(=O)O FC(F)(F)C(=O)O
3: ClCC#N CC(F)(F)C
3: FCCF
1: CC[N+](=O)[O-] CN=[N+]=[N-] C=C=C CC=C=O CN=C=O CN=C=S C[N+]#[C-] CON=O CO[N+](=O)[O-]
1: C[N+](C)(C)[O-] CN=NC
1: CNNC CON CNO
"""

# Substituents, first atom joined; the weight is per line.
_SUBSTITUENTS = """
9: C CC O N F Cl Br OC
5: C(C)C C=O C(=O)O C(=O)N C(=O)OC C(C)=O C#N CO CN S NC N(C)C C(F)(F)F C=C C#C
3: CCC C(C)(C)C CC(C)C C1CC1 OCC NC(C)=O NC=O OC(C)=O C(=O)NC C(=O)N(C)C C(=O)OCC SC CCO CCN CCl CF
3: C(F)F CBr COC
3: CNC CC#N
3: S(C)(=O)=O S(N)(=O)=O S(C)=O NS(C)(=O)=O C(C)=C CC=C CC#C C(O)C C(N)C CC(=O)O CC(=O)N OC(F)(F)F
3: OC(F)F
2: [N+](=O)[O-] C(=O)Cl C(=O)F C=NO C(N)=N NC(N)=O NC(=O)OC C(=S)N SCC C=CC C=CC#N C=CC=O C(C)(C)O
2: C(C)(F)F
2: C(=O)C(F)(F)F CC(F)(F)F
2: P P(C)C P(C)(C)=O P(O)(O)=O P(=O)(OC)OC OP(O)(O)=O OP(=O)(OC)OC CP(C)(C)=O SC#N SC(F)(F)F
2: S(=O)(=O)F
2: S(=O)(=O)Cl S(=O)(=O)O
1: N=[N+]=[N-] N=C=O N=C=S [N+]#[C-] NN ON NO C(=O)NN C=NN C(=O)NO C(=O)C#N C(Cl)(Cl)Cl C(Cl)Cl
1: C(=C)C#N N=O
1: C=C=C SSC OC#N P(=S)(C)C
"""

# Linkers between a core and another ring; the empty one is a direct bond.
_LINKERS = """
6: -
3: C O N CC C(=O)N NC(=O) CO OC CN NC C(=O)
2: S C=C C#C C(=O)O OC(=O) S(=O)(=O)N CCC COC CNC CC(=O)N C=N N=C SC CS S(=O)(=O) C(O) NC(=O)N
2: C(C)(C) C(=O)C OCC
1: N=N P(C) P(=O)(C) OP(=O)(O)O C=NN C(=S)N SS C(F)(F) C=CC(=O)
"""


def weighted(text: str) -> tuple[list[str], list[float]]:
    """Fragments and normalised weights from lines of ``weight: fragment fragment ...``; "-" is the
    empty fragment."""
    fragments: list[str] = []
    weights: list[float] = []
    for line in text.split("\n"):
        head, colon, rest = line.partition(": ")
        if colon:
            names = rest.split()
            fragments += ["" if name == "-" else name for name in names]
            weights += [float(head)] * len(names)
    total = sum(weights)
    return fragments, [w / total for w in weights]


SMALL = _SMALL.split()
RINGS = weighted(_RINGS)
CHAINS = weighted(_CHAINS)
SUBSTITUENTS = weighted(_SUBSTITUENTS)
LINKERS = weighted(_LINKERS)
