if ok "$B"; then say "the agent is already here"
else
	fetch
	chmod 755 "$N" && mv -f "$N" "$B" || die "cannot write $B"
	have restorecon && restorecon "$B"
	say "the agent is here and as it should be"
fi
"$B" install || die "herdsman-agent install: exit $?"
