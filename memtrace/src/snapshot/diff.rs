//! What changed between two snapshots of a process, by mapping. The books close here too:
//! `closing RES − opening RES = Σ rows + unexplained`, the last being what the two readings themselves leave open.
