*** Settings ***
Library    KafkaLibrary

*** Test Cases ***
An Order Reaches Its Topic
    Connect Producer    bootstrap_servers=%{KAFKA}
    Send    %{RUN}-orders    value=${{b'book'}}
    Send    %{RUN}-orders    value=${{b'pen'}}
    Connect Consumer    bootstrap_servers=%{KAFKA}    auto_offset_reset=earliest    group_id=%{RUN}
    Subscribe Topic    %{RUN}-orders
    ${records}=    Poll    timeout_ms=${20000}
    Should Be Equal    ${records[0].value}    ${{b'book'}}
    Log To Console    ${records[0].value}
