/* SPDX-License-Identifier: Apache-2.0 */
/* Every DCMI function that is used, each as (our name, symbol of the card interface, symbol of the flat interface,
 * arguments after those that name the device). A symbol that an interface lacks is "".
 */
#ifndef EAGLE_EYE_DCMI_CALLS_H
#define EAGLE_EYE_DCMI_CALLS_H

#include "dcmi_abi.h"

#define DCMI_DEVICE_CALLS(X) \
	X(power, "dcmi_get_device_power_info", "dcmiv2_get_device_power_info", int32_t *) \
	X(temperature, "dcmi_get_device_temperature", "dcmiv2_get_device_temperature", int32_t *) \
	X(voltage, "dcmi_get_device_voltage", "dcmiv2_get_device_voltage", uint32_t *) \
	X(frequency, "dcmi_get_device_frequency", "dcmiv2_get_device_frequency", int, uint32_t *) \
	X(hbm, "dcmi_get_device_hbm_info", "dcmiv2_get_device_hbm_info", struct dcmi_hbm *) \
	X(ddr, "dcmi_get_device_memory_info_v3", "", struct dcmi_ddr *) \
	X(loads, "dcmi_get_device_multi_utilization_rate", "dcmiv2_get_device_multi_utilization_rate", \
	  struct dcmi_loads *) \
	X(load, "dcmi_get_device_utilization_rate", "dcmiv2_get_device_utilization_rate", int, uint32_t *) \
	X(health, "dcmi_get_device_health", "dcmiv2_get_device_health", uint32_t *) \
	X(faults, "dcmi_get_device_errorcode_v2", "dcmiv2_get_device_error_code_list", int32_t *, uint32_t *, uint32_t) \
	X(ecc, "dcmi_get_device_ecc_info", "dcmiv2_get_device_ecc_info", int, struct dcmi_ecc *) \
	X(info, "dcmi_get_device_info", "dcmiv2_get_device_info", int, uint32_t, void *, uint32_t *) \
	X(network, "dcmi_get_device_network_health", "dcmiv2_get_device_network_health", uint32_t *) \
	X(packets, "dcmi_get_netdev_pkt_stats_info", "dcmiv2_get_netdev_pkt_stats_info", int, struct dcmi_packets *) \
	X(pcie_bandwidth, "dcmi_get_pcie_link_bandwidth_info", "dcmiv2_get_pcie_link_bandwidth_info", \
	  struct dcmi_pcie_bandwidth *) \
	X(hccs_bandwidth, "dcmi_get_hccs_link_bandwidth_info", "", struct dcmi_hccs_bandwidth *) \
	X(processes, "dcmi_get_device_resource_info", "dcmiv2_get_device_proc_mem_info", struct dcmi_process *, int32_t *) \
	X(chip, "dcmi_get_device_chip_info_v2", "dcmiv2_get_device_chip_info", struct dcmi_chip *) \
	X(chip_first, "dcmi_get_device_chip_info", "", struct dcmi_chip *) \
	X(pcie, "dcmi_get_device_pcie_info_v2", "dcmiv2_get_device_pcie_info", struct dcmi_pcie *) \
	X(board, "dcmi_get_device_board_info", "dcmiv2_get_device_board_info", struct dcmi_board *) \
	X(die, "dcmi_get_device_die_v2", "dcmiv2_get_device_die_id", int, struct dcmi_die *) \
	X(label, "dcmi_get_device_elabel_info", "dcmiv2_get_device_elabel_info", struct dcmi_label *) \
	X(component, "dcmi_get_device_component_static_version", "dcmiv2_get_device_component_static_version", int, \
	  char *, uint32_t) \
	X(affinity, "dcmi_get_affinity_cpu_info_by_device_id", "dcmiv2_get_affinity_cpu_info_by_dev_id", char *, int32_t *) \
	X(kind, "dcmi_get_device_type", "dcmiv2_get_device_type", uint32_t *) \
	X(boot, "dcmi_get_device_boot_status", "dcmiv2_get_device_boot_status", uint32_t *) \
	X(subscribe, "dcmi_subscribe_fault_event", "dcmiv2_subscribe_fault_event", struct dcmi_event_filter, \
	  void (*)(struct dcmi_event *)) \
	X(wait_event, "dcmi_get_fault_event", "dcmiv2_get_fault_event", int, struct dcmi_event_filter, struct dcmi_event *)

/* Those that do not begin with a device; (our name, symbol, arguments). */
#define DCMI_LIBRARY_CALLS(X) \
	X(init, "dcmi_init", void) \
	X(init_v2, "dcmiv2_init", void) \
	X(card_list, "dcmi_get_card_list", int32_t *, int32_t *, int) \
	X(devices_in_card, "dcmi_get_device_num_in_card", int, int32_t *) \
	X(ids_in_card, "dcmi_get_device_id_in_card", int, int32_t *, int32_t *, int32_t *) \
	X(logic_id, "dcmi_get_device_logic_id", int32_t *, int, int) \
	X(card_of_logic_id, "dcmi_get_card_id_device_id_from_logicid", int32_t *, int32_t *, uint32_t) \
	X(device_list_v2, "dcmiv2_get_device_list", int32_t *, int32_t *, int) \
	X(all_count, "dcmi_get_all_device_count", int32_t *) \
	X(all_count_v2, "dcmiv2_get_all_device_count", int32_t *) \
	X(version, "dcmi_get_dcmi_version", char *, uint32_t) \
	X(version_v2, "dcmiv2_get_dcmi_version", char *, uint32_t) \
	X(driver_version, "dcmi_get_driver_version", char *, uint32_t) \
	X(driver_version_v2, "dcmiv2_get_driver_version", char *, uint32_t) \
	X(topology, "dcmi_get_topo_info_by_device_id", int, int, int, int, int32_t *) \
	X(topology_v2, "dcmiv2_get_topo_info_by_device_id", int, int, int32_t *)

#endif
