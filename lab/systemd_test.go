package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// bootSystemd makes systemd the first process of a PID namespace in addition to a machine's own namespaces. Its root has the computer's
// programs, the machine's /etc/warren and state, warren under /usr/local/bin, one unit file, and targets that start
// nothing. Arguments: work folder, warren, unit file, name of the control group, then pairs of a folder and where it appears.
const bootSystemd = `
set -eu
export W=$1 EXE=$2 UNIT=$3 GROUP=$4
shift 4
if [ -d /sys/fs/cgroup/systemd ]; then export CG=/sys/fs/cgroup/systemd; else export CG=/sys/fs/cgroup; fi
mkdir -p $CG/$GROUP
echo $$ >$CG/$GROUP/cgroup.procs
exec unshare --mount --pid --fork --cgroup --ipc --kill-child bash -euc '
R=$W/root
mkdir -p $R
mount -t tmpfs tmpfs $R
mkdir -p $R/proc $R/sys $R/dev $R/run $R/tmp $R/etc/systemd/system/${UNIT##*/}.d $R/var/lib $R/usr
for d in bin sbin lib lib64; do [ ! -L /$d ] || cp -a /$d $R/$d; done
for d in bin sbin lib lib64; do [ -L /$d ] || [ ! -d /$d ] || { mkdir -p $R/$d; mount --bind /$d $R/$d; }; done
mount --rbind /usr $R/usr
mount -t tmpfs tmpfs $R/usr/local
mkdir $R/usr/local/bin
cp $EXE $R/usr/local/bin/warren
cp -a /etc/warren /etc/passwd /etc/group $R/etc/
while [ $# -gt 0 ]; do
  mkdir -p $R$2
  mount --bind $1 $R$2
  shift 2
done
echo 0123456789abcdef0123456789abcdef >$R/etc/machine-id
cd $R/etc/systemd/system
for d in $R/usr/lib/systemd/system/*.wants; do mount -t tmpfs tmpfs $d; done
for u in sysinit basic sockets timers paths slices network-online shutdown umount final; do
  printf "[Unit]\nDefaultDependencies=no\n" >$u.target
done
printf "[Unit]\nDefaultDependencies=no\n" >quiet.target
cp $UNIT .
printf "[Service]\nStandardOutput=append:/run/warren.log\nStandardError=append:/run/warren.log\n" >${UNIT##*/}.d/log.conf
cd /
mount --rbind /dev $R/dev
mount -t proc proc $R/proc
mount --bind $R/proc/sys $R/proc/sys
mount -o remount,bind,ro $R/proc/sys
mount --bind /proc/sys/net $R/proc/sys/net
mount -t sysfs sysfs $R/sys
if [ $CG = /sys/fs/cgroup ]; then mount -t cgroup2 cgroup2 $R/sys/fs/cgroup; else
  mount -t tmpfs tmpfs $R/sys/fs/cgroup
  mkdir $R/sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd cgroup $R/sys/fs/cgroup/systemd
fi
mount -t tmpfs tmpfs $R/run
ln -s /run $R/var/run
exec env -i WARREN_LAB=$WARREN_LAB container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  chroot $R /lib/systemd/systemd --system --unit=quiet.target --log-target=null' sh "$@"`

// systemd is a running instance.
type systemd struct {
	t       *testing.T
	l       *Lab
	machine string
	pid     int
}

// shipped is a unit file of deploy/.
func shipped(t *testing.T, unit string) string {
	t.Helper()
	path, err := filepath.Abs("../deploy/systemd/" + unit)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// boot runs systemd on a machine, with one unit that is not started yet. folders are pairs: one of the machine's and where the
// unit sees it.
func boot(t *testing.T, l *Lab, machine, unit string, folders ...string) *systemd {
	t.Helper()
	group := fmt.Sprintf("warren-lab-test-%d-%s", os.Getpid(), t.Name())
	dir := t.TempDir()
	args := append([]string{"bash", "-c", bootSystemd, "boot", dir, l.Exe, unit, group}, folders...)
	k := begin(t, l, on(l, machine), args...)
	s := &systemd{t: t, l: l, machine: machine}
	t.Cleanup(func() { removeGroup(group) })
	t.Cleanup(func() {
		if s.pid != 0 {
			_ = syscall.Kill(s.pid, syscall.SIGKILL) // and with it all of its namespace
		}
		_, _ = k.wait(t, 20*time.Second)
	})
	testutil.Eventually(t, "systemd", func() error {
		for _, pid := range l.processes() {
			if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(comm)) == "systemd" {
				s.pid = pid
				_, err := s.run("systemctl", "list-units")
				return err
			}
		}
		return fmt.Errorf("not there: %s", k.text())
	})
	return s
}

// removeGroup removes a control group with all below it, once its processes are gone.
func removeGroup(name string) {
	for _, root := range []string{"/sys/fs/cgroup/systemd/", "/sys/fs/cgroup/"} {
		var all []string
		_ = filepath.WalkDir(root+name, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append([]string{path}, all...)
			}
			return nil
		})
		for _, d := range all {
			_ = os.Remove(d)
		}
	}
}

// run runs a command in the namespaces of systemd.
func (s *systemd) run(args ...string) (string, error) {
	return s.l.Output(s.machine, append([]string{"nsenter", "-t", fmt.Sprint(s.pid), "-m", "-p", "-i", "-r", "-w"}, args...)...)
}

func (s *systemd) must(args ...string) string {
	s.t.Helper()
	out, err := s.run(args...)
	if err != nil {
		log, _ := s.run("tail", "-n", "20", "/run/warren.log")
		s.t.Fatalf("%v: %v %s\n%s", args, err, out, log)
	}
	return strings.TrimSpace(out)
}

// show returns a property of a unit.
func (s *systemd) show(unit, property string) string {
	s.t.Helper()
	return s.must("systemctl", "show", "-p", property, "--value", unit)
}

// The unit of deploy/systemd under a real systemd: start returns when Pods can be attached, a killed agent is restarted, stop
// leaves the data plane in place, and the agent has four capabilities. While it restarts, the service manager has its sockets: a process
// that tries to bind them again and again never succeeds.
func TestSystemd_AgentUnit_StartKillStop(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	pods := onePodEach(t, l)
	st, err := l.Status(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.StopAgent("n1", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s := boot(t, l, "n1", shipped(t, "warren.service"), "/var/lib/warren", "/var/lib/warren", "/var/lib/warren-pki", "/var/lib/warren-pki")
	ready := func(after string) {
		t.Helper()
		s.must("/usr/local/bin/warren", "status", "--ready")
		testutil.Eventually(t, "calls after "+after, func() error { _, err := calls(l, pods[1], pods[0].Addresses[0]); return err })
		mustCall(t, l, pods[0], pods[1])
	}
	s.must("systemctl", "start", "warren")
	ready("start")
	wins := spin(t, l, "n1", "tcp 127.0.0.1:9551", "udp 0.0.0.0:51820", "udp 10.43.0.10:53", "tcp 10.43.0.10:53",
		"udp "+netip.AddrPortFrom(st.PodCIDRs[0].Addr().Next(), 9552).String())
	s.must("systemctl", "restart", "warren")
	ready("restart")

	main := s.show("warren", "MainPID")
	caps := s.must("grep", "CapEff", "/proc/"+main+"/status")
	if f := strings.Fields(caps); len(f) != 2 || strings.TrimLeft(f[1], "0") != "8000003400" {
		t.Errorf("capabilities %s, expected NET_BIND_SERVICE, NET_ADMIN, NET_RAW and BPF (8000003400)", caps)
	}
	if out := s.must("grep", "Seccomp:", "/proc/"+main+"/status"); strings.Fields(out)[1] != "2" {
		t.Errorf("the filter of system calls is not in force: %s", out)
	}
	for dir, writable := range map[string]bool{
		"/etc": false, "/usr": false, "/var/lib": false, "/etc/cni/net.d": true, "/var/lib/warren": true,
	} {
		out := strings.Fields(s.must("findmnt", "--task", main, "--noheadings", "--output", "OPTIONS", "--target", dir))
		if len(out) == 0 || slices.Contains(strings.Split(out[len(out)-1], ","), "rw") != writable { // the last one is the uppermost
			t.Errorf("mount options of %s for the agent: %v, expected writable %v", dir, out, writable)
		}
	}
	s.must("kill", "-KILL", main)
	testutil.Eventually(t, "systemd starts it again", func() error {
		if n := s.show("warren", "NRestarts"); n != "1" {
			return fmt.Errorf("%s restarts", n)
		}
		_, err := s.run("/usr/local/bin/warren", "status", "--ready")
		return err
	})
	ready("kill -9")
	if won := wins(); len(won) > 0 {
		t.Errorf("while the agent restarted, another process bound %v", won)
	}
	if out := s.must("/usr/local/bin/warren", "status"); strings.Contains(out, "retrying") {
		t.Errorf("after restarts a socket is not open:\n%s", out)
	}

	s.must("systemctl", "stop", "warren")
	if state, _ := s.run("systemctl", "is-active", "warren"); strings.TrimSpace(state) != "inactive" {
		t.Errorf("after a stop: %s", state)
	}
	s.must("test", "-e", "/run/warren/flows")
	if out := sh(t, l, "n1", "ip -o link show warren0; ip rule"); !strings.Contains(out, "warren0") ||
		!strings.Contains(out, "lookup 101") {
		t.Errorf("a stop took the data plane down: %s", out)
	}
	s.must("systemctl", "start", "warren")
	ready("stop and start")
}

// etcdUnit is the shipped unit with the name and addresses of etcd1, and with the paths of certificates of its comments.
func etcdUnit(t *testing.T, l *Lab) string {
	t.Helper()
	raw, err := os.ReadFile(shipped(t, "warren-etcd.service"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, r := range [][2]string{
		{"--name m1 ", "--name etcd1 "},
		{"https://192.0.2.10:2379", l.Spec.etcdURL("etcd1", etcdClientPort)},
		{"https://192.0.2.10:2380", l.Spec.etcdURL("etcd1", etcdPeerPort)},
	} {
		if strings.Count(text, r[0]) != 1 {
			t.Fatalf("the unit's example does not have %q once:\n%s", r[0], text)
		}
		text = strings.Replace(text, r[0], r[1], 1)
	}
	file := filepath.Join(t.TempDir(), "warren-etcd.service")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, l, "etcd1", "cd "+pkiInside+" && cp ca.crt /etc/warren/ && cp tls.crt /etc/warren/etcd.crt && cp tls.key /etc/warren/etcd.key")
	return file
}

// The unit of etcd under a real systemd: start returns when clients are served, a failed or killed member is restarted without
// limit and the agents use it again, stop ends it without a kill, and it can write to its data directory only.
func TestSystemd_EtcdUnit_StartKillStop(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	unit := etcdUnit(t, l)
	if err := l.StopEtcd("etcd1", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s := boot(t, l, "etcd1", unit, "/var/lib/etcd", "/var/lib/warren-etcd")
	const name = "warren-etcd"
	written := 0
	reached := func(after string) {
		t.Helper()
		written++
		cm := fmt.Sprintf("written%d", written)
		testutil.Eventually(t, "n1 writes after "+after, func() error {
			_, err := l.Output("n1", "sh", "-c", fmt.Sprintf(`%s apply -f - <<E
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {selector: {app: none}, ports: [{port: 80}]}
E`, l.Exe, cm))
			return err
		})
		testutil.Eventually(t, "n2's agent receives it after "+after, func() error {
			out, err := l.Output("n2", l.Exe, "services")
			if err == nil && !strings.Contains(out, cm) {
				err = fmt.Errorf("not there:\n%s", out)
			}
			return err
		})
		run(t, l, "n2", cm)
	}
	s.must("systemctl", "start", name)
	// One request of a client that does not retry.
	if out, err := s.run("curl", "-sS", "--fail", "--max-time", "20", "--cacert", "/etc/warren/ca.crt", "--cert", "/etc/warren/etcd.crt",
		"--key", "/etc/warren/etcd.key", l.Spec.etcdURL("etcd1", etcdClientPort)+"/health"); err != nil ||
		!strings.Contains(out, `"true"`) {
		t.Errorf("started, but it does not serve: %v %s", err, out)
	}
	reached("start")

	main := s.show(name, "MainPID")
	if caps := s.must("grep", "CapBnd", "/proc/"+main+"/status"); strings.Trim(strings.TrimPrefix(caps, "CapBnd:"), "\t 0") != "" {
		t.Errorf("capabilities %s, expected none", caps)
	}
	s.must("nsenter", "-t", main, "-m", "-r", "-w", "sh", "-c",
		"touch /var/lib/warren-etcd/x && rm /var/lib/warren-etcd/x && ! touch /etc/x && ! touch /usr/x && ! touch /var/x")
	s.must("kill", "-KILL", main)
	testutil.Eventually(t, "systemd starts it again", func() error {
		if n := s.show(name, "NRestarts"); n != "1" {
			return fmt.Errorf("%s restarts", n)
		}
		_, err := s.run("systemctl", "is-active", name)
		return err
	})
	reached("kill -9")

	s.must("systemctl", "stop", name)
	if got := s.show(name, "Result") + " " + s.show(name, "ExecMainStatus"); got != "success 0" {
		t.Errorf("a stop ended with %s", got)
	}
	if out, err := s.run("systemctl", "is-active", name); err == nil || strings.TrimSpace(out) != "inactive" {
		t.Errorf("after a stop: %s", out)
	}
	// More failures in a row than the default start limit of systemd.
	s.must("mv", "/etc/warren/etcd.key", "/etc/warren/away")
	s.must("systemctl", "start", "--no-block", name)
	testutil.Eventually(t, "it fails and fails", func() error {
		if n, err := strconv.Atoi(s.show(name, "NRestarts")); err != nil || n < 7 {
			return fmt.Errorf("%d restarts, %v; now it is %s", n, err, s.show(name, "ActiveState"))
		}
		return nil
	})
	s.must("mv", "/etc/warren/away", "/etc/warren/etcd.key")
	testutil.Eventually(t, "it serves in the end", func() error {
		_, err := s.run("systemctl", "is-active", name)
		return err
	})
	reached("failures")
}
