// Package machine tests what changes a whole machine: packages, units, reboots, firewalls. Its
// tests run on the host and drive virtual machines (testkit/vm); without BERTH_VM=1 they skip.
package machine
