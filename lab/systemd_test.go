package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bootSystemd makes systemd the first process of a PID namespace beside a node's own namespaces. Its root has the machine's
// programs, the node's /etc/warren and state, warren under /usr/local/bin, the unit file of deploy/, and targets that start
// nothing. Arguments: work folder, warren, unit file, name of the control group.
const bootSystemd = `
set -eu
export W=$1 EXE=$2 UNIT=$3 GROUP=$4
if [ -d /sys/fs/cgroup/systemd ]; then export CG=/sys/fs/cgroup/systemd; else export CG=/sys/fs/cgroup; fi
mkdir -p $CG/$GROUP
echo $$ >$CG/$GROUP/cgroup.procs
exec unshare --mount --pid --fork --cgroup --ipc --kill-child bash -euc '
R=$W/root
mkdir -p $R
mount -t tmpfs tmpfs $R
mkdir -p $R/proc $R/sys $R/dev $R/run $R/tmp $R/etc/systemd/system/warren.service.d $R/var/lib/warren $R/usr
for d in bin sbin lib lib64; do [ ! -L /$d ] || cp -a /$d $R/$d; done
for d in bin sbin lib lib64; do [ -L /$d ] || [ ! -d /$d ] || { mkdir -p $R/$d; mount --bind /$d $R/$d; }; done
mount --rbind /usr $R/usr
mount -t tmpfs tmpfs $R/usr/local
mkdir $R/usr/local/bin
cp $EXE $R/usr/local/bin/warren
cp -a /etc/warren /etc/passwd /etc/group $R/etc/
cp -a /var/lib/warren-pki $R/var/lib/
mount --bind /var/lib/warren $R/var/lib/warren
echo 0123456789abcdef0123456789abcdef >$R/etc/machine-id
cd $R/etc/systemd/system
for u in sysinit basic sockets timers paths slices network-online shutdown umount final; do
  printf "[Unit]\nDefaultDependencies=no\n" >$u.target
done
printf "[Unit]\nDefaultDependencies=no\n" >quiet.target
cp $UNIT warren.service
printf "[Service]\nStandardOutput=append:/run/warren.log\nStandardError=append:/run/warren.log\n" >warren.service.d/log.conf
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
  chroot $R /lib/systemd/systemd --system --unit=quiet.target --log-target=null' sh`

// systemd is a running one.
type systemd struct {
	t   *testing.T
	l   *Lab
	pid int
}

func boot(t *testing.T, l *Lab, node string) *systemd {
	t.Helper()
	unit, err := filepath.Abs("../deploy/systemd/warren.service")
	if err != nil {
		t.Fatal(err)
	}
	group := fmt.Sprintf("warren-lab-test-%d", os.Getpid())
	dir := t.TempDir()
	k := begin(t, l, on(l, node), "bash", "-c", bootSystemd, "boot", dir, l.Exe, unit, group)
	s := &systemd{t: t, l: l}
	t.Cleanup(func() { removeGroup(group) })
	t.Cleanup(func() {
		if s.pid != 0 {
			_ = syscall.Kill(s.pid, syscall.SIGKILL) // and with it all of its namespace
		}
		_, _ = k.wait(t, 20*time.Second)
	})
	eventually(t, "systemd", func() error {
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

// run runs a command beside systemd.
func (s *systemd) run(args ...string) (string, error) {
	return s.l.Output("n1", append([]string{"nsenter", "-t", fmt.Sprint(s.pid), "-m", "-p", "-i", "-r", "-w"}, args...)...)
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

// The unit of deploy/systemd under a real systemd: a start returns when Pods can be plugged, a killed agent comes back, a stop
// leaves the data plane standing, and four capabilities are all it has.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	l := start(t, Spec{Nodes: 2})
	pods := onePodEach(t, l)
	if err := l.StopAgent("n1", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s := boot(t, l, "n1")
	ready := func(after string) {
		t.Helper()
		s.must("/usr/local/bin/warren", "status", "--ready")
		eventually(t, "calls after "+after, func() error { _, err := calls(l, pods[1], pods[0].Addresses[0]); return err })
		mustCall(t, l, pods[0], pods[1])
	}
	s.must("systemctl", "start", "warren")
	ready("start")
	s.must("systemctl", "restart", "warren")
	ready("restart")

	main := s.must("systemctl", "show", "-p", "MainPID", "--value", "warren")
	caps := s.must("grep", "CapEff", "/proc/"+main+"/status")
	if f := strings.Fields(caps); len(f) != 2 || strings.TrimLeft(f[1], "0") != "8000003400" {
		t.Errorf("capabilities %s, expected NET_BIND_SERVICE, NET_ADMIN, NET_RAW and BPF (8000003400)", caps)
	}
	s.must("kill", "-KILL", main)
	eventually(t, "systemd starts it again", func() error {
		if n := s.must("systemctl", "show", "-p", "NRestarts", "--value", "warren"); n != "1" {
			return fmt.Errorf("%s restarts", n)
		}
		_, err := s.run("/usr/local/bin/warren", "status", "--ready")
		return err
	})
	ready("kill -9")

	s.must("systemctl", "stop", "warren")
	if state, _ := s.run("systemctl", "is-active", "warren"); strings.TrimSpace(state) != "inactive" {
		t.Errorf("after a stop: %s", state)
	}
	s.must("test", "-e", "/run/warren/flows")
	if out := sh(t, l, "n1", "ip -o link show warren0; ip rule"); !strings.Contains(out, "warren0") || !strings.Contains(out, "lookup 101") {
		t.Errorf("a stop took the data plane down: %s", out)
	}
	s.must("systemctl", "start", "warren")
	ready("stop and start")
}
