#!/usr/bin/env bash
# The models of docs/protocol.md, section 11, in configurations that take seconds: the correct ones
# must have no error, and every mutation must be found. README.md in this folder says what each line
# shows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

holds() { ./check.sh "$@" || { echo "FAIL: $* must have no error" >&2; exit 1; }; }

# A mutation counts as found only if the model was checked and an assertion or the end state
# failed, not if the checker itself failed.
finds() {
	local out rc=0
	out=$(./check.sh "$@" 2>&1) || rc=$?
	echo "$out"
	[ $rc -eq 1 ] && grep -Eq 'errors: [1-9]' <<<"$out" || { echo "FAIL: $* must fail and did not" >&2; exit 1; }
}

echo "uplink"
holds uplink.pml -DEXACT -DN=3 -DG=2
holds uplink.pml -DEXACT -DN=3 -DG=2 -DNODEDUPE
for m in NOFENCE STALEWELCOME ACKEARLY NOPERSISTCN LATESEQ; do
	finds uplink.pml -DEXACT -DN=3 -DG=3 -D"$m"
done
finds uplink.pml -DEXACT -DN=3 -DG=2 -DTWOSTEP
holds uplink.pml -DEXACT -DN=3 -DG=2 -DPUB
for m in EARLYSEND LOSTSYNC; do
	finds uplink.pml -DEXACT -DN=3 -DG=2 -DPUB -D"$m"
done
holds uplink.pml -DEXACT -DN=3 -DG=2 -DEX=1
for m in EXPIRESENT EARLYMOVE NOSENTMARK; do
	finds uplink.pml -DEXACT -DN=3 -DG=2 -DEX=1 -D"$m"
done
holds uplink.pml -DEXACT -DN=3 -DG=3 -DCC=0 -DDRAIN
finds uplink.pml -DEXACT -DN=3 -DG=3 -DCC=0 -DDRAIN -DNORESEND
holds uplink.pml -DEXACT -DN=3 -DG=2 -DCREDIT
finds uplink.pml -DEXACT -DN=3 -DG=2 -DCREDIT -DNOGRANT
echo "keys"
holds keys.pml
for m in NOPREV LATEKEY LATEHELLO FENCELATE; do
	finds keys.pml -D"$m"
done
echo "horizon"
holds horizon.pml
for m in NOAGE NOMARGIN LASTAGE CRASHAGE; do
	finds horizon.pml -D"$m"
done
echo "rewind"
holds rewind.pml
holds rewind.pml -DRW=2
for m in WRONGKEY OLDRECORD NOIDS PARTS VERSIONAGAIN; do
	finds rewind.pml -D"$m"
done
echo "calls"
holds calls.pml
for m in LATEMARK NOSKIP NUMBERAGAIN KEEPOPEN SENDAGAIN LOSTUNSENT NOOUTCOME ENDANDAGAIN; do
	finds calls.pml -D"$m"
done
echo "downlink"
holds downlink.pml -DG=2
holds downlink.pml -DG=2 -DTX
holds downlink.pml -DG=2 -DTX -DWEAKTAG -DREW=0
holds downlink.pml -DG=2 -DTX -DBIG=2
finds downlink.pml -DG=2 -DTX -DBIG=2 -DBIGSKIP
for m in NOTAG WEAKTAG NOGAP NOEPOCH ACKRCV NOCREDIT; do
	finds downlink.pml -DG=2 -DTX -D"$m"
done
