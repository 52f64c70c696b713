set -uf
umask 077
J=/var/lib/herdsman
B=/usr/local/bin/herdsman-agent
N=$B.new
NL='
'
say() {
	m="herdsman: $*"
	echo "$m" >&2
	(echo "$m" >/dev/console) 2>/dev/null
	:
}
die() {
	say "gave up: $*"
	exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
# Seconds since boot: no clock that is set meanwhile.
now() {
	read -r t _ </proc/uptime
	t=${t%%.*}
}
sum() {
	if have sha256sum; then x=$(sha256sum "$1")
	elif have python3; then x=$(python3 -c 'import hashlib as h,sys;print(h.sha256(open(sys.argv[1],"rb").read()).hexdigest())' "$1")
	elif have openssl; then x=$(openssl dgst -sha256 -r "$1")
	else die "sha256sum, python3 or openssl is needed to check the agent"
	fi
	x=${x%% *}
}
# Whether a file is the agent.
ok() { [ -f "$1" ] && sum "$1" && [ "$x" = "$H" ]; }
# Goes on where an earlier try broke off.
get() {
	T=$(have timeout && echo "timeout $((60 * n))")
	if have curl; then set -- curl -fsSL --connect-timeout 15 -C - -o "$N" "$1"
	elif have wget; then set -- wget -nv -t 1 -c -O "$N" "$1"
	elif have python3; then set -- python3 -c 'import os,sys,urllib.request as r
u,f=sys.argv[1:]
n=os.path.exists(f)and os.path.getsize(f)
try:s=r.urlopen(r.Request(u,headers={"Range":"bytes=%d-"%n}if n else{}),None,30)
except Exception as e:sys.exit(str(e))
o=open(f,"ab"if s.status==206 else"wb")
b=1
while b:b=s.read(65536);o.write(b)' "$1" "$N"
	else die "curl, wget or python3 is needed to download the agent"
	fi
	if why=$($T "$@" 2>&1); then why=
	else why="exit $? ${why##*"$NL"}"
	fi
}
fetch() {
	n=0
	z=0
	while :; do
		n=$((n + 1))
		for u in $U; do
			get "$u"
			x=
			ok "$N" && return
			# What is whole but wrong, or does not grow, cannot be continued.
			y=0
			[ "$why" ] && [ -f "$N" ] && y=$(wc -c <"$N")
			[ "$y" -gt "$z" ] || rm -f "$N"
			z=$y
			say "no agent from $u: ${why:=SHA-256 is $x, not $H}"
		done
		now
		p=$((n < 6 ? n * n : 30))
		[ "$((t + p))" -lt "$E" ] || die "no agent within $W s; last: $why"
		sleep "$p"
	done
}
[ "$(id -u)" = 0 ] || die "only root can set it up"
now
E=$((t + W))
mkdir -p $J
