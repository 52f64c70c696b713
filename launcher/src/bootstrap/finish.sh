if ok "$B"; then say "the agent is already here"
else
	fetch
	chmod 755 "$N" && mv -f "$N" "$B" || die "cannot write $B"
	say "the agent is as it should be"
fi
